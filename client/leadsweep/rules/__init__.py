"""The rules that client and server share: how a file is read, what its columns are called, how an
identifier is compared, and what may be printed.

Each module here is a link to the server's own file, so the two cannot differ; the wheel has the
files themselves. They import each other relatively, as they live in two packages.
"""
