"""What is deployed, and the deployment files that are made from it."""
