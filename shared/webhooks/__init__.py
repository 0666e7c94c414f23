"""Where webhooks may go, and how they are signed."""
