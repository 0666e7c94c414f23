"""`leadsweep doctor`: every part looked at, with what is wrong and what to do about it."""
