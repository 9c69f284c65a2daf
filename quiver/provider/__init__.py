"""A node that sells inference."""
