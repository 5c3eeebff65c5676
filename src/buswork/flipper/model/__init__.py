"""Boards that several callers share: whose turn it is, who has one to itself, what is polled."""
