"""Tests, flat: test_<room>_<subject>.py."""
