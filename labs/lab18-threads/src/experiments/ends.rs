//! What becomes of a thread when main ends.

use std::fs;

use anyhow::{Result, ensure};
use kernel::NotSeen;
use shared::{Predicts, Role, Stage, Verdict};

use super::Folder;
use crate::detached::WORK;

pub fn no_matter_what(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum File {
        Never,
        ThreadAlone,
        ProcessStays,
        AtOnce,
    }
    stage.say("detached", "User1 works for a minute, then it writes a file. Nobody joins it.");

    let question = stage.ask(
        "User2 is done, and main returns while User1 works. When does User1 write its file?",
        [
            ("at once: the end of main cuts its work short", File::AtOnce),
            ("in a minute: its process stays until then", File::ProcessStays),
            ("in a minute: it goes on without its process", File::ThreadAlone),
            ("never: it ends together with its process", File::Never),
        ],
        Predicts { source: Some(File::ThreadAlone), kit: File::Never },
    )?;
    let folder = Folder::new()?; // not before: a demo that is left at its question leaves nothing behind
    let [lone_file, joined_file] = ["lone", "joined"].map(|name| folder.0.join(name));
    let path = |file: &std::path::Path| file.to_string_lossy().into_owned();
    let mut lone = Role::start(&["detached", "--seconds", "60", "--file", &path(&lone_file)])?;
    for line in ["(User1     ) Arrived", "(User2     ) Arrived", "(User2     ) Leaving"] {
        stage.say("detached", lone.line_with(line)?);
    }
    let ended = lone.wait_for_end();
    let observed = match ended {
        Err(error) if error.is::<NotSeen>() => File::ProcessStays,
        Err(error) => return Err(error),
        Ok(status) => {
            stage.say("detached", format_args!("main has returned: {status}"));
            let tasks = fs::read_dir(format!("/proc/{}/task", lone.pid())).map_or(0, Iterator::count);
            let written = lone_file.exists();
            let file = if written { "is there" } else { "does not exist" };
            stage.say("kernel", format_args!("process {} has {tasks} tasks; the file {file}", lone.pid()));
            match (tasks, written) {
                (_, true) => File::AtOnce,
                (0, false) => File::Never,
                (_, false) => File::ThreadAlone,
            }
        }
    };

    // The same with join, and with less work: now the file is written.
    let mut joined = Role::start(&["detached", "--join", "--seconds", "0.2", "--file", &path(&joined_file)])?;
    stage.say("joined", joined.line_with("(User1     ) Leaving")?);
    ensure!(joined.wait_for_end()?.success(), "detached --join failed");
    let written = fs::read_to_string(&joined_file).unwrap_or_default();
    stage.say("joined", format_args!("main called join; the file has {written:?}"));
    ensure!(written == WORK, "with join the file has {written:?}");
    stage.verdict(question, observed, "exit_group(2) ends every thread; only main's join waits for one")
}
