#!/usr/bin/env python3
"""Where the limit of several servers with one PostgreSQL is: a calculation by the measured costs in BENCHMARKS.md, and a
simulation that checks it.

    python3 tests/replicas_simulation.py [--decisions 100000] [--sites 3] [--accounts 10000000] [--prepare] [--json]

Each decision is made by a revision that its server read at most --fresh-ms ago: it waits for a read if there is none. A
core of the server answers it, and looks the account up in the standby of its site unless the cache has it. Standard
library only.
"""

import argparse
import heapq
import json
import math
import pathlib
import random
import re

BENCHMARKS = pathlib.Path(__file__).parent.parent / "BENCHMARKS.md"
# The rows of BENCHMARKS.md that count, in microseconds of processor time.
ROWS = {
    "answer": r"sealed RCMP answer, 32 connections, server CPU, 1000000 accounts",
    "look_up": r"look-up in PostgreSQL, cold, with groups, our processor time, {} statements, 1000000 accounts",
    "handshake": r"secure channel set-up \(opnums 4, 26, sealed bind\), 8 at once, server CPU",
    "read": r"read of the revision, CPU of PostgreSQL, {} statements",
    "look_up_database": r"look-up of an account, CPU of PostgreSQL, {} statements, 20000 accounts",
}
# A core that is busier than this makes clients wait.
BUSY_MAX = 0.7
# Statements of one handshake on the primary: put a challenge, find it, use it up, machine twice, put the channel, make
# room, and the channels at the bind.
HANDSHAKE_STATEMENTS = 8
CHANNEL_HOURS = 12


def costs(statements):
    """Seconds by name."""
    text, found = BENCHMARKS.read_text(), {}
    for name, row in ROWS.items():
        match = re.search(rf"^\| {row.format(statements)} \| ([0-9.]+) µs \|", text, re.MULTILINE)
        if match is None:
            raise SystemExit(f"BENCHMARKS.md has no row {row!r}")
        found[name] = float(match[1]) * 1e-6
    return found


def hit_ratio(given, servers):
    """How many look-ups the cache answers. Any change of an account ends all cached answers, so the cache of a server has
    what it was asked since the last change. Questions are spread over the accounts evenly: the worst case."""
    lifetime = min(given.cache_ttl, 1 / given.changes) if given.changes else given.cache_ttl
    asked = given.decisions / servers * lifetime
    kept = min(given.cache_entries, given.accounts * (1 - math.exp(-asked / given.accounts)))
    return kept / given.accounts / 2


def calculate(given, cost, servers):
    """The load of each part, in busy cores, and what a decision waits for."""
    rate, hits = given.decisions, hit_ratio(given, servers)
    # After half of the time, the next decision asks for a read. Never more than one in the time of the way there and back.
    per_server = rate / servers
    fresh = given.fresh_ms * 1e-3
    trip = {site: (given.local_ms if site == 0 else given.remote_ms) * 1e-3 for site in range(given.sites)}
    reads = sum(servers / given.sites * min(1 / max(trip[site], fresh / 2), per_server) for site in trip)
    handshakes = given.machines * given.connections / (CHANNEL_HOURS * 3600)
    look_ups = rate * (1 - hits)
    server = per_server * (cost["answer"] + (1 - hits) * cost["look_up"]) + handshakes / servers * cost["handshake"]
    primary = reads * cost["read"] + handshakes * HANDSHAKE_STATEMENTS * cost["read"]
    standby = look_ups / given.sites * cost["look_up_database"]
    # The part of the time in which the last read is too old, until the next one is answered.
    late = {site: max(0.0, fresh / 2 + trip[site] - fresh) for site in trip}
    wait = sum(late[site] ** 2 / 2 / max(trip[site], fresh / 2) if fresh else 1.5 * trip[site] for site in trip) / given.sites
    return {
        "servers": servers,
        "cores_of_a_server": server,
        "cache_hits": hits,
        "reads_per_s": reads,
        "cores_of_the_primary": primary,
        "look_ups_per_s_of_a_standby": look_ups / given.sites,
        "cores_of_a_standby": standby,
        "wait_ms": wait * 1e3,
        "calls_at_once": rate * (wait + (1 - hits) * given.local_ms * 1e-3) + servers * server,
        "connections_to_the_primary": servers * given.pool,
    }


def busy(given, found):
    """How busy the busiest part is, by name."""
    parts = {
        "server": found["cores_of_a_server"] / given.cores,
        "primary": found["cores_of_the_primary"] / given.database_cores,
        "standby": found["cores_of_a_standby"] / given.database_cores,
    }
    return max(parts.items(), key=lambda part: part[1])


def servers_needed(given, cost):
    """The fewest servers, the same number at each site, of which one site may be lost."""
    for servers in range(given.sites, 10_000, given.sites):
        left = servers - servers // given.sites if given.sites > 1 else servers
        found = calculate(given, cost, left)
        if found["cores_of_a_server"] <= BUSY_MAX * given.cores:
            return servers
    raise SystemExit("no number of servers is enough")


def limit(given, cost, servers):
    """The most decisions a second, and the part that is busy first."""
    low, high = 1.0, 1e9
    for _ in range(60):
        given.decisions = (low + high) / 2
        if busy(given, calculate(given, cost, servers))[1] <= BUSY_MAX:
            low = given.decisions
        else:
            high = given.decisions
    given.decisions = low
    return low, busy(given, calculate(given, cost, servers))[0]


class Queue:
    """Cores that work on one job each, in the order of arrival."""

    def __init__(self, cores):
        self.free_at = [0.0] * cores
        self.worked = 0.0

    def done(self, arrived, work):
        begun = max(arrived, heapq.heappop(self.free_at))
        heapq.heappush(self.free_at, begun + work)
        self.worked += work
        return begun + work


def simulate(given, cost, servers, seconds):
    """Decisions that arrive at random. Returns the median and the 99th percentile of their times in ms, how busy each part
    was, and the reads a second."""
    randomness = random.Random(1)
    hits = hit_ratio(given, servers)
    site_of = [number % given.sites for number in range(servers)]
    cores = [Queue(given.cores) for _ in range(servers)]
    primary, standbys = Queue(given.database_cores), [Queue(given.database_cores) for _ in range(given.sites)]
    # When the last answered read of each server began, and the one that is under way.
    fresh = given.fresh_ms * 1e-3
    read_at, reading, waiting = [-1.0] * servers, [None] * servers, [[] for _ in range(servers)]
    times, reads, now = [], 0, 0.0
    # (time, order, kind, what): an order makes equal times comparable.
    events, order = [], 0

    def push(time, kind, what):
        nonlocal order
        order += 1
        heapq.heappush(events, (time, order, kind, what))

    def read(server):
        nonlocal reads
        reads += 1
        trip = (given.local_ms if site_of[server] == 0 else given.remote_ms) * 1e-3
        reading[server] = now
        push(primary.done(now + trip / 2, cost["read"]) + trip / 2, "read", server)

    def decide(server, arrived):
        done, work = now, cost["answer"]
        if randomness.random() >= hits:
            there = now + given.local_ms * 0.5e-3
            done = standbys[site_of[server]].done(there, cost["look_up_database"]) + given.local_ms * 0.5e-3
            work += cost["look_up"]
        push(done, "answer", (server, arrived, work))

    push(randomness.expovariate(given.decisions), "arrival", None)
    while events:
        now, _, kind, what = heapq.heappop(events)
        if kind == "arrival":
            if now < seconds:
                push(now + randomness.expovariate(given.decisions), "arrival", None)
            server = randomness.randrange(servers)
            is_new = read_at[server] >= now - fresh
            if is_new:
                decide(server, now)
            else:
                waiting[server].append(now)
            if reading[server] is None and (not is_new or read_at[server] < now - fresh / 2):
                read(server)
        elif kind == "read":
            server = what
            read_at[server], reading[server] = reading[server], None
            asked, waiting[server] = waiting[server], []
            for arrived in asked:
                if read_at[server] >= arrived - fresh:
                    decide(server, arrived)
                else:
                    waiting[server].append(arrived)
            if waiting[server]:
                read(server)
        else:
            server, arrived, work = what
            times.append(cores[server].done(now, work) - arrived)
    times.sort()
    return {
        "median_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[len(times) * 99 // 100] * 1e3,
        "busy_server": max(queue.worked for queue in cores) / now / given.cores,
        "busy_primary": primary.worked / now / given.database_cores,
        "busy_standby": max(queue.worked for queue in standbys) / now / given.database_cores,
        "reads_per_s": reads / now,
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--decisions", type=float, default=100_000, help="decisions a second")
    parser.add_argument("--accounts", type=int, default=10_000_000)
    parser.add_argument("--machines", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=2, help="channels of a machine")
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--cores", type=int, default=4, help="cores of a server")
    parser.add_argument("--database-cores", type=int, default=16)
    parser.add_argument("--local-ms", type=float, default=0.5, help="to the database at the same site and back")
    parser.add_argument("--remote-ms", type=float, default=10.0, help="to the primary from another site and back")
    parser.add_argument("--fresh-ms", type=float, default=100.0, help="store.postgres.fresh_ms")
    parser.add_argument("--changes", type=float, default=1.0, help="changes of accounts a second")
    parser.add_argument("--cache-entries", type=int, default=1_000_000)
    parser.add_argument("--cache-ttl", type=float, default=60.0)
    parser.add_argument("--pool", type=int, default=8, help="connections of a server to the primary")
    parser.add_argument("--seconds", type=float, default=0.5, help="simulated time")
    parser.add_argument("--prepare", action="store_true", help="named statements: store.postgres.prepare = true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main():
    given = arguments()
    cost = costs("named" if given.prepare else "unnamed")
    servers = servers_needed(given, cost)
    asked, found = given.decisions, calculate(given, cost, servers)
    at_asked = simulate(given, cost, servers, given.seconds)
    most, first = limit(given, cost, servers)
    given.decisions = most / BUSY_MAX * 1.15
    beyond = simulate(given, cost, servers, given.seconds)
    result = {"decisions_per_s": asked, "costs_us": {name: value * 1e6 for name, value in cost.items()}, "calculated": found,
              "simulated": at_asked, "limit_per_s": most, "busy_first": first, "beyond": beyond}
    if given.json:
        return print(json.dumps(result, indent=2))
    print(f"{asked:,.0f} decisions/s, {given.accounts:,} accounts, {given.sites} sites, servers of {given.cores} cores")
    print(f"servers, one site may be lost    {servers}")
    print(f"busy cores of a server           {found['cores_of_a_server']:.2f} of {given.cores}")
    print(f"reads of the revision a second   {found['reads_per_s']:,.0f} (simulated {at_asked['reads_per_s']:,.0f})")
    print(f"busy cores of the primary        {found['cores_of_the_primary']:.2f} of {given.database_cores}")
    print(f"look-ups a second of a standby   {found['look_ups_per_s_of_a_standby']:,.0f}")
    print(f"busy cores of a standby          {found['cores_of_a_standby']:.2f} of {given.database_cores}")
    print(f"connections to the primary       {found['connections_to_the_primary']}")
    print(f"calls at once                    {found['calls_at_once']:,.0f}")
    print(f"time of a decision, simulated    median {at_asked['median_ms']:.1f} ms, 99 % {at_asked['p99_ms']:.1f} ms")
    print(f"the limit of these servers       {most:,.0f} decisions/s: busy first is the {first}")
    print(f"15 % beyond all of its cores     99 % {beyond['p99_ms']:.1f} ms after {given.seconds} s, and growing")


if __name__ == "__main__":
    main()
