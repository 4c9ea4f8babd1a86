"""Losses and bookkeeping that recipes share."""
