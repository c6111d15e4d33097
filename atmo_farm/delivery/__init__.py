"""Outcomes and retry, without knowing any broker or guest."""
