"""Dead letters that people can work with: `orderflow dlq`."""
