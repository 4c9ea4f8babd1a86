"""Every loop that makes sound: requests, stages at work, decoding, guidance, sessions."""
