"""Files that people send: blocks of bytes, CSV, and what spreadsheets make of it."""
