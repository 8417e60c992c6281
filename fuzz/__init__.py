"""What reads the bytes of strangers, fed with bytes that nobody would write: `make fuzz`."""
