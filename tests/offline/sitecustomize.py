"""Refuses every way out of this machine, in each Python process that has this folder on its PYTHONPATH.

tests/conftest.py puts it there for pytest and all that tests start, and `make test` for the notebooks. What is no
Python (Chromium) has flags of its own. Refusals are errors such as those of a network that is down.
"""

import ipaddress
import socket


def leaves(host: object) -> bool:
    """Whether a host is another machine: not a loopback address, not this machine's own name, not "any"."""
    host = host.decode(errors="replace") if isinstance(host, bytes | bytearray) else host
    if host in (None, "", "localhost", socket.gethostname()):
        return False
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return True  # a name that somebody else would be asked about
    return not (address.is_loopback or address.is_unspecified)


def refuse(host: object) -> None:
    if leaves(host):
        raise ConnectionRefusedError(f"tests reach nothing beyond loopback, and this was to reach {host}")


def guarded(function, destination):
    """A function or method that looks at where it is to go before it goes."""

    def checked(*args, **kwargs):
        refuse(destination(args, kwargs))
        return function(*args, **kwargs)

    checked.guarded = True
    return checked


def address_of(place: int):
    """The host in the address that a socket's method is given; addresses of Unix sockets are no tuples."""
    return lambda args, _: args[place][0] if len(args) > abs(place) and isinstance(args[place], tuple) else None


if not hasattr(socket.socket.connect, "guarded"):
    for method, where in (("connect", 1), ("connect_ex", 1), ("sendto", -1)):
        setattr(socket.socket, method, guarded(getattr(socket.socket, method), address_of(where)))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, guarded(getattr(socket, name), lambda args, kwargs: args[0] if args else kwargs["host"]))
