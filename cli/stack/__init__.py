"""`leadsweep up`: servers of our own, and the processes beside them."""
