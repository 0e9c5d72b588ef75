"""`python -m llmcore.chat`: a conversation in the terminal."""

import sys
from importlib import import_module

from ..cli.interrupt import leave_at_once

leave_at_once()
sys.exit(import_module("..cli.chat", __package__).main())
