"""What players play, on USB audio displays: Ferrum Streaming Control Technology(TM) (FSCT)."""
