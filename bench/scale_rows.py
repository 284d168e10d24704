"""Many tunnels, and much history of them."""

import http.client
import json
import os
import sqlite3
import ssl
import subprocess
import threading
import time

from procs import cpu_seconds, memory_kib, wait_for
from run import say
from scale_cluster import Cluster

from lib.warren import Rest  # after run, which knows where it is

CLIENTS = 8        # that make tunnels at a time
KEPT = 10_000      # ended connections that a tunnel keeps (src/tunnel/tunnel_store.c)
PAGE = 1000


class Session:
    """REST over one connection that stays."""

    def __init__(self, rest):
        context = ssl.create_default_context(cafile=rest.ca_path)
        self.connection = http.client.HTTPSConnection(rest.host, rest.port, context=context, timeout=120)
        self.headers = {"Authorization": f"Bearer {rest.token}", "Content-Type": "application/json"}

    def call(self, method, path, body=None):
        self.connection.request(method, path, json.dumps(body) if body else None, self.headers)
        answer = self.connection.getresponse()
        data = answer.read()
        assert answer.status < 300, (answer.status, data[:500])
        return json.loads(data) if data else None

    def pages(self, path, size=PAGE):
        """Each page's items."""
        token = ""
        while token is not None:
            page = self.call("GET", f"{path}?page_size={size}&page_token={token}")
            token = page["next_page_token"]
            yield page["items"]


def timed(fn):
    """(seconds, result)"""
    began = time.monotonic()
    result = fn()
    return time.monotonic() - began, result


def start_agent(cluster):
    """A real one, in the network "bench"."""
    token = cluster.rest().post("/api/v1/tokens", {"network": "bench", "uses": None})["token"]
    path = os.path.join(cluster.directory, "token")
    with open(path, "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
        f.write(token)
    data = os.path.join(cluster.directory, "agent")
    hubs = [word for i in range(cluster.count) for word in ("--hub", cluster.url(i))]
    subprocess.run([cluster.program("warren-agent"), "enroll", "--hub", cluster.url(0),
                    "--token-file", path, "--data", data], check=True, capture_output=True)
    return cluster.group.start("agent", [cluster.program("warren-agent"), "run", "--data", data, *hubs])


def tunnel(i, port=9):
    """Its agent looks each minute whether the target is there; the default of 2 s would be 5,000 handshakes a
    second for 10,000 tunnels on one agent."""
    return {"name": f"t-{i}", "spec": {"target": {"network": "bench", "address": f"127.0.0.1:{port}"},
                                       "check": {"interval": "60s"}}}


def make_by_apply(cluster, first, n, port):
    """Seconds; declared in a file and not there before."""
    path = os.path.join(cluster.directory, "declared.json")
    with open(path, "w") as f:
        json.dump([{"kind": "tunnel", **tunnel(i, port)} for i in range(first, first + n)], f)
    argv = [cluster.program("warren"), "apply", "-f", path, "--yes"]
    run = lambda: subprocess.run(argv, check=True, capture_output=True, env=cluster.environment())
    return timed(run)[0], timed(run)[0]


def make_by_api(cluster, first, n, port):
    numbers = iter(range(first, first + n))
    lock = threading.Lock()
    errors = []

    def work():
        try:
            session = Session(cluster.rest())
            while True:
                with lock:
                    i = next(numbers, None)
                if i is None:
                    return
                session.call("POST", "/api/v1/tunnels", tunnel(i, port))
        except Exception as error:  # noqa: BLE001: told by the main thread
            errors.append(error)
    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def active_at(cluster, i):
    """By its metrics, which cost it nothing beside a list of them all."""
    text = cluster.rest(i).raw("GET", "/metrics")[2].decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.startswith('warren_tunnels{phase="active"}'))


def wait_active(cluster, hubs, n, seconds=300):
    began = time.monotonic()
    for i in hubs:
        while active_at(cluster, i) < n:
            if time.monotonic() - began > seconds:
                raise RuntimeError(f"{active_at(cluster, i)} of {n} tunnels serve at hub {i + 1}")
            time.sleep(0.1)
    return time.monotonic() - began


def watch_seconds(cluster):
    """Until a watcher has all of them."""
    with cluster.rest().watch("/api/v1/tunnels", timeout=120) as watch:
        return timed(lambda: watch.until(lambda event, _: event == "sync"))[0]


def home_of(cluster):
    """Number of the hub at which the agent is."""
    session = wait_session(cluster)
    ids = [open(os.path.join(cluster.data(i), "hub.id")).read().strip() for i in range(cluster.count)]
    return ids.index(session["hub"])


def wait_session(cluster):
    def session():
        agents = cluster.rest().items("/api/v1/agents")
        return agents and agents[0]["status"]["session"]
    wait_for("the agent", session, 60)
    return session()


def tunnels(o, directory, build):
    n, by_apply = o.tunnels, min(1000, o.tunnels // 10)
    cluster = Cluster(os.path.join(directory, "tunnels"), build, 3)
    rows = []
    try:
        cluster.start_all()
        cluster.rest().post("/api/v1/networks", {"name": "bench"})
        cluster.group.start("target", [cluster.program("bench/bench-load"), "serve"])
        log = os.path.join(cluster.directory, "target.log")
        wait_for("the target", lambda: json.load(open(log)))
        port = json.load(open(log))["port"]
        agent = start_agent(cluster)
        home = home_of(cluster)
        hubs, empty, agent_empty = cluster.cpu(), cluster.pss_mib(), memory_kib([agent])[1]
        say(f"{n} tunnels")
        seconds, again = make_by_apply(cluster, 0, by_apply, port)
        rows += [("a tunnel made by warren apply", seconds / by_apply * 1000, "ms"),
                 ("... when it is there already", again / by_apply * 1000, "ms")]
        for name, first, last in ("", by_apply, n - by_apply), (", the last ones", n - by_apply, n):
            before, counters = cluster.cpu(), cluster.database.counters()
            seconds, _ = timed(lambda f=first, k=last - first: make_by_api(cluster, f, k, port))
            used = cluster.database.counters()[3] - counters[3]
            rows += [(f"tunnels made by the API, {CLIENTS} clients{name}", (last - first) / seconds, "/s"),
                     ("... CPU of the hubs for one", (cluster.cpu() - before) / (last - first) * 1000, "ms"),
                     ("... CPU of the database for one", used / (last - first) * 1000, "ms")]
        rows += [("all of them active at every hub, after", wait_active(cluster, range(3), n), "s"),
                 ("a tunnel: CPU of the hubs, from made to active", (cluster.cpu() - hubs) / n * 1000, "ms"),
                 ("a tunnel: memory of a hub", (cluster.pss_mib() - empty) * 1024 / n / 3, "KiB PSS"),
                 ("a tunnel: memory of its agent", (memory_kib([agent])[1] - agent_empty) / n, "KiB PSS")]
        session = Session(cluster.rest())
        rows += [("first page of 100", timed(lambda: next(session.pages("/api/v1/tunnels", 100)))[0] * 1000, "ms"),
                 (f"all of them, in pages of {PAGE}",
                  timed(lambda: sum(len(p) for p in session.pages("/api/v1/tunnels")))[0], "s"),
                 ("a watcher has them all after", watch_seconds(cluster), "s")]
        before, written = cluster.cpu(), cluster.database.counters()[1]
        time.sleep(o.rest)
        rows += [("at rest: CPU of the hubs", (cluster.cpu() - before) / o.rest * 100, "% of a core"),
                 ("at rest: CPU of the agent", cpu_rate(agent, o.rest), "% of a core"),
                 ("at rest: rows written", (cluster.database.counters()[1] - written) / o.rest, "/s")]
        other = next(i for i in range(3) if i != home)
        cluster.stop_hub(other)
        rows += [("a hub started with them: ready after",
                  timed(lambda: cluster.start_hub(other, "--ca-key-file", cluster.key_file))[0], "s"),
                 ("... and shows them active after", wait_active(cluster, [other], n), "s")]
        cluster.stop_hub(home, 9)
        before, counters = cluster.cpu(), cluster.database.counters()
        rows.append(("the hub killed that served them: active again after",
                     wait_active(cluster, [i for i in range(3) if i != home], n), "s"))
        used = [b - a for a, b in zip(counters, cluster.database.counters())]
        rows += [("... CPU of the hubs for one", (cluster.cpu() - before) / n * 1000, "ms"),
                 ("... CPU of the database for one", used[3] / n * 1000, "ms"),
                 ("... rows written for one", used[1] / n, "")]
    finally:
        cluster.close()
    return rows


def cpu_rate(pid, seconds):
    before = cpu_seconds([pid])
    time.sleep(seconds)
    return (cpu_seconds([pid]) - before) / seconds * 100


# ---- history ----

FILL = """insert into connection (id, tunnel, agent, hub, client, opened, closed, bytes_in, bytes_out, ended, error)
select 'con_' || {number}, '{tunnel}', 'agt_0000000000000000', 'hub_0000000000000000', '192.0.2.1:40000',
1700000000000 + i * 100, 1700000000000 + i * 100 + 50, 1234, 5678, 'closed', null from {series}"""

PAGE_QUERY = ("SELECT id FROM connection WHERE tunnel = '{tunnel}' AND opened <= {at} AND (opened < {at} OR id < 'd') "
              "ORDER BY opened DESC, id DESC LIMIT 101")
PRUNE_QUERY = ("DELETE FROM connection WHERE tunnel = '{tunnel}' AND opened < (SELECT opened FROM connection WHERE "
               "tunnel = '{tunnel}' ORDER BY opened DESC LIMIT 1 OFFSET {kept})")


def ask_history(label, rest, ids):
    session = Session(rest)
    path = f"/api/v1/tunnels/{ids[0]}/connections"
    first, _ = timed(lambda: next(session.pages(path, 100)))
    took, pages = timed(lambda: [len(p) for p in session.pages(path, 100)])
    removal, _ = timed(lambda: session.call("DELETE", f"/api/v1/tunnels/{ids[-1]}"))
    return [(f"{label}: first page of 100", first * 1000, "ms"),
            (f"{label}: all pages of 100 of one tunnel, each", took / len(pages) * 1000, "ms"),
            (f"{label}: the tunnel's rows", sum(pages), ""),
            (f"{label}: a tunnel deleted, with its rows", removal * 1000, "ms")]


def make_tunnels(rest, n):
    rest.post("/api/v1/networks", {"name": "bench"})
    session = Session(rest)
    return [session.call("POST", "/api/v1/tunnels", tunnel(i))["id"] for i in range(n)]


def explain(label, plan):
    if "Seq Scan" in plan or "SCAN connection" in plan:
        raise RuntimeError(f"{label} reads the whole table:\n{plan}")
    say(f"{label}:\n{plan}")


def history_postgres(o, directory, build, count):
    cluster = Cluster(os.path.join(directory, "postgres-history"), build, 1)
    try:
        cluster.start_hub(0)
        ids = make_tunnels(cluster.rest(), count)
        say(f"{o.rows} rows in PostgreSQL")
        fill = [FILL.format(number=f"{k} * 1000000 + i", tunnel=t, series=f"generate_series(1, {KEPT}) i")
                for k, t in enumerate(ids)]
        seconds, _ = timed(lambda: [cluster.database.sql(sql) for sql in fill])
        cluster.database.sql("analyze connection")
        rows = [("PostgreSQL: rows", o.rows, ""), ("PostgreSQL: filled with SQL", o.rows / seconds, "/s")]
        for name, query in ("a page", PAGE_QUERY), ("pruning", PRUNE_QUERY):
            sql = query.format(tunnel=ids[1], at=1700000500000, kept=KEPT)
            plan = cluster.database.sql(f"begin; explain (analyze, buffers) {sql}; rollback")
            explain(f"PostgreSQL, {name}", plan)
            took = float(plan.rsplit("Execution Time: ", 1)[1].split()[0])
            rows.append((f"PostgreSQL: {name}, as it measures it", took, "ms"))
        size = int(cluster.database.sql("select pg_total_relation_size('connection')"))
        rows.append(("PostgreSQL: a row, with its indexes", size / o.rows, "B"))
        return rows + ask_history("PostgreSQL", cluster.rest(), ids)
    finally:
        cluster.close()


def history_sqlite(o, directory, build, count):
    cluster = Cluster(os.path.join(directory, "sqlite-history"), build, 1)
    cluster.database.url = f"sqlite:{directory}/history.db"
    try:
        cluster.start_hub(0)
        ids = make_tunnels(cluster.rest(), count)
        cluster.stop_hub(0)
        say(f"{o.rows} rows in SQLite")
        db = sqlite3.connect(f"{directory}/history.db")
        series = f"(with recursive s(i) as (select 1 union all select i + 1 from s where i < {KEPT}) select i from s)"
        for k, t in enumerate(ids):
            db.execute(FILL.format(number=f"({k} * 1000000 + i)", tunnel=t, series=series))
        db.commit()
        rows = [("SQLite: rows", o.rows, "")]
        for name, query in ("a page", PAGE_QUERY), ("pruning", PRUNE_QUERY):
            sql = query.format(tunnel=ids[1], at=1700000500000, kept=KEPT)
            plan = "\n".join(row[3] for row in db.execute("explain query plan " + sql))
            explain(f"SQLite, {name}", plan)
            rows.append((f"SQLite: {name}", timed(lambda q=sql: db.execute(q).fetchall())[0] * 1000, "ms"))
        db.rollback()
        db.close()
        seconds, _ = timed(lambda: cluster.start_hub(0))
        rows.append(("SQLite: a hub started with them", seconds, "s"))
        return rows + ask_history("SQLite", cluster.rest(), ids)
    finally:
        cluster.close()


def history(o, directory, build):
    count = max(2, o.rows // KEPT)
    return history_postgres(o, directory, build, count) + history_sqlite(o, directory, build, count)
