"""The container images: what is in each, how they are built, and what they weigh."""
