"""The `leadsweep` command and the embedded stack that it can run on."""
