"""Files of people: blocks of bytes, CSV, and what spreadsheets make of it."""
