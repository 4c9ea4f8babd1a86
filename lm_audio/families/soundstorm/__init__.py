"""SoundStorm: semantic tokens to acoustic tokens, in parallel."""
