//! A class thinks for minutes: no verdict may depend on how long a question stays open.
//!
//!     cargo test -p testkit --test hold -- --ignored              each question stays open for 70 s
//!     HOLD=240 LABS=lab13,lab16 cargo test -p testkit --test hold -- --ignored
#![allow(clippy::unwrap_used)]

use std::{
    env,
    path::PathBuf,
    process::Command,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use testkit::{Role, built, labs, run, wait_until};

/// Longer than the time-outs of nearly all programs.
const USUAL: Duration = Duration::from_secs(70);
/// How many experiments wait at the same time.
const AT_ONCE: usize = 60;
/// A demo may be busy for so long between two prompts.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
#[ignore = "it takes minutes: each question of each lab stays open for longer than any time-out"]
fn no_verdict_depends_on_how_long_the_class_thinks() {
    let hold = env::var("HOLD").map_or(USUAL, |seconds| Duration::from_secs(seconds.parse().unwrap()));
    let wanted = env::var("LABS").unwrap_or_default();
    let folder = built();
    let mut waiting: Vec<(PathBuf, String)> = Vec::new();
    for lab in labs().iter().filter(|lab| wanted.is_empty() || wanted.split(',').any(|wanted| lab.starts_with(wanted)))
    {
        let binary = folder.join(lab);
        let list = run(Command::new(&binary).arg("--list")).stdout;
        let titles = list.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
        waiting.extend(titles.map(|title| (binary.clone(), title.split(' ').next().unwrap().to_string())));
    }
    assert!(!waiting.is_empty(), "no lab is named {wanted}");
    let (waiting, failures) = (Mutex::new(waiting), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((binary, number)) = { waiting.lock().unwrap().pop() } {
                    let told = played(&binary, &number, hold);
                    if told.contains("UNEXPECTED") || !told.contains("verdict") {
                        failures.lock().unwrap().push(told);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} experiments failed:\n{}", failures.len(), failures.join("\n\n"));
}

/// One experiment with `--pause`, its first prompt answered after `hold`: what it printed.
fn played(binary: &PathBuf, number: &str, hold: Duration) -> String {
    let mut demo = Role::spawn(Command::new(binary).args([number, "--pause"])).unwrap();
    let start = Instant::now();
    let mut holds = Some(hold);
    while demo.wait_for_within("[Enter] ", LIMIT).is_ok() {
        if let Some(hold) = holds.take() {
            let until = Instant::now() + hold;
            let over = || Ok((Instant::now() >= until).then_some(()));
            wait_until("the class to have thought", hold + LIMIT, over).unwrap();
        }
        if demo.type_line("").is_err() {
            break; // it has ended
        }
    }
    let ended = demo.wait_for_end();
    format!("{} {number}, {ended:?} after {:?}\n{}", binary.display(), start.elapsed(), demo.printed())
}
