from __future__ import annotations

import sys

from feed_crawler.run import main

sys.exit(main())
