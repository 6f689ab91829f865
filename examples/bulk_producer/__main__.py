from __future__ import annotations

import sys

from bulk_producer.run import main

sys.exit(main())
