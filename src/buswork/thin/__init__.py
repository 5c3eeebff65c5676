"""Commands that a shell script starts a thousand times: no D-Bus, no asyncio, nothing imported
that they can do without. `globstash` and `mapipc` speak mapipcd's sockets."""
