"""What an error means to the person who gave the command: exit code and message.

Errors are defined by the modules that raise them. Read first: ``exit_codes.judge_error``.
"""
