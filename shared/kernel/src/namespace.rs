//! A private network: a user and a network namespace of one's own, with root's rights in it and lo up. No root needed.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Need, wait_until};

/// A link whose text names the network namespace.
const OWN: &str = "/proc/self/ns/net";
/// A start may take this long where a machine is starved; the answer of a kernel never does. A demo's watchdog waits longer.
pub const START_LIMIT: Duration = Duration::from_secs(25);

/// A command that runs `program` in a private network. What unshare(1) and ip(8) say is thrown away.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["-Urn", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).arg(program).stderr(Stdio::null());
    unshare
}

/// The name of the network namespace this program is in, such as `net:[4026531840]`.
///
/// # Errors
/// /proc is not there.
pub fn own() -> Result<String> {
    let link = fs::read_link(OWN).with_context(|| format!("readlink {OWN}"))?;
    Ok(link.to_string_lossy().into_owned())
}

/// For a role that changes its network: fails in `outside`, the namespace of whoever started it.
///
/// # Errors
/// It was not started in a namespace of its own.
pub fn ensure_private(outside: &str) -> Result<()> {
    ensure!(own()? != outside, "this would change the network for everybody: start it in unshare -Urn");
    Ok(())
}

fn possible() -> bool {
    let child = command("true").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(_) => return false,
    };
    let ended = wait_until("the end of true", START_LIMIT, || Ok(child.try_wait()?));
    let _ = child.kill(); // ESRCH: it has ended
    ended.is_ok_and(|status| status.success())
}

/// For an experiment that runs a part of itself by [`command`].
pub const NAMESPACE: Need = Need {
    what: "a private user and network namespace (unshare -Urn, ip)",
    provided_by: "apt-get install util-linux iproute2; sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    met: possible,
};
