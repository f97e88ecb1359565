"""Accounting for the test cluster: slurmdbd on a MariaDB of its own, so that a wrong account is really refused.

It needs two more packages than the cluster: `PACKAGES`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cluster

PACKAGES = "slurmdbd slurm-wlm-mysql-plugin mariadb-server"
PROGRAMS = ("slurmdbd", "mariadbd", "mariadb", "mariadb-admin", "mariadb-install-db", "sacctmgr")
LIBRARIES = "/usr/lib/*/slurm-wlm/accounting_storage_mysql.so"
PORT = 16819
SOCKET = cluster.BASE / "run" / "mariadb.sock"
SLURM_CONF = f"""AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={PORT}
AccountingStoragePass={cluster.BASE}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations"""
DBD_CONF = f"""{cluster.MARK}
AuthType=auth/munge
AuthInfo=socket={cluster.BASE}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={PORT}
SlurmUser=root
PidFile={cluster.BASE}/run/slurmdbd.pid
LogFile={cluster.BASE}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=histoloom_slurm
"""


def why_not() -> str | None:
    """Return why accounting cannot be started here, or None if it can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or not list(Path("/usr/lib").glob(LIBRARIES.removeprefix("/usr/lib/"))):
        return f"no {', '.join(missing) or 'MySQL plugin'}: apt-get install --no-install-recommends {PACKAGES}"
    conf = cluster.ETC / "slurmdbd.conf"
    if conf.exists() and cluster.MARK not in conf.read_text():
        return f"{conf} belongs to another SLURM"
    return None


def start_database() -> None:
    """Start a MariaDB that only a socket reaches; its root is this user, without a password."""
    data = cluster.BASE / "mariadb"
    if not data.exists():
        data.mkdir()
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db"]
        install.append("--auth-root-authentication-method=socket")
        subprocess.run(install, check=True, capture_output=True)
    server = [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={data}",
        f"--socket={SOCKET}",
        "--skip-networking",
    ]
    server += [f"--pid-file={cluster.BASE}/run/mariadbd.pid", "--innodb-buffer-pool-size=64M"]
    # What slurmdbd asks for; durability is nothing to a database that lives for one test.
    server += ["--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0"]
    with (cluster.BASE / "log" / "mariadb.out").open("ab") as out:
        subprocess.Popen(server, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    cluster.wait_for("MariaDB", lambda: "alive" in cluster.ask("mariadb-admin", f"--socket={SOCKET}", "ping"), 60)
    create = ["mariadb", "--no-defaults", f"--socket={SOCKET}", "-e", "CREATE DATABASE IF NOT EXISTS histoloom_slurm"]
    subprocess.run(create, check=True, capture_output=True)


def start() -> None:
    """Start the database and slurmdbd, and give this user the account of the shipped profile."""
    start_database()
    conf = cluster.ETC / "slurmdbd.conf"
    conf.touch(mode=0o600)
    conf.write_text(DBD_CONF)
    with (cluster.BASE / "log" / "slurmdbd.out").open("ab") as out:
        subprocess.run(
            ["slurmdbd"], env=os.environ | {"MYSQL_UNIX_PORT": str(SOCKET)}, stdin=subprocess.DEVNULL,
            stdout=out, stderr=out, check=True, start_new_session=True,
        )  # fmt: skip
    asked = ("sacctmgr", "-n", "-i")
    cluster.wait_for(
        "slurmdbd", lambda: subprocess.run([*asked, "list", "cluster"], capture_output=True).returncode == 0
    )
    for words in (
        ("cluster", "histoloom"),
        ("account", cluster.ACCOUNT, "Cluster=histoloom", "Description=test", "Organization=test"),
        ("user", "root", f"Account={cluster.ACCOUNT}", f"DefaultAccount={cluster.ACCOUNT}"),
    ):
        subprocess.run([*asked, "add", *words], check=True, capture_output=True)
