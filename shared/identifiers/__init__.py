"""The identifiers of leads: canonical forms, names they may have, numbers of countries."""
