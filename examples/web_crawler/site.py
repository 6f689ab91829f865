"""A site to crawl on a free port of 127.0.0.1: pages that link to each other, and some dead ends.

``python -m web_crawler.site --pages 2000`` prints its address as one JSON line and serves until its
parent is gone. Page *n* links to its three children in a tree, to its parent, to the start, to one
foreign site (which a crawler of one site must not follow), and every 50th page to one that does not
exist.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os

CHILDREN = 3
DELAY = 0.03


def page(number: int, pages: int) -> bytes | None:
    """Render page ``number`` of ``pages``, or return ``None`` if there is none."""
    if not 0 <= number < pages:
        return None
    first = number * CHILDREN + 1
    targets = [f"/page/{n}" for n in range(first, first + CHILDREN) if n < pages]
    targets += [f"/page/{(number - 1) // CHILDREN}"] if number else []
    targets += ["/page/0#top", "http://elsewhere.invalid/"]
    targets += [f"/page/{pages + number}"] if number % 50 == 49 else []
    links = "".join(f"<li><a href='{target}'>{target}</a></li>" for target in targets)
    return (
        f"<!doctype html><html><head><title>Page {number}</title></head>"
        f"<body><ul>{links}</ul></body></html>"
    ).encode()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pages: int) -> None:
    """Serve one keep-alive connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            _, kind, number = [*path.split("/"), "", ""][:3]
            body = page(int(number), pages) if kind == "page" and number.isdecimal() else None
            await asyncio.sleep(DELAY)
            status = "200 OK" if body is not None else "404 Not Found"
            body = body or b""
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve(pages: int) -> None:
    """Serve until the parent process is gone."""
    server = await asyncio.start_server(
        lambda r, w: answer(r, w, pages), "127.0.0.1", 0, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"start": f"http://127.0.0.1:{port}/page/0"}), flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve the local site of the web crawler.")
    parser.add_argument("--pages", type=int, default=2000)
    asyncio.run(serve(parser.parse_args().pages))
