"""The consumer process: one worker of one stream handler."""
