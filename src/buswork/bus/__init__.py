"""The D-Bus edge: transport, codec, contract, dispatch, callers and polkit. It knows no wing."""
