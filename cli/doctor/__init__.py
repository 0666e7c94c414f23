"""`leadsweep doctor`: looks at every part, and says how to mend what is wrong."""
