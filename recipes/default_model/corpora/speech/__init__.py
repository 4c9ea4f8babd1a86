"""Made-up speech: sentences, voices that read them, and captions that say who speaks, and how."""
