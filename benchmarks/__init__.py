"""Runnable proofs of what the README claims: each prints its figures, the last line as one JSON object."""
