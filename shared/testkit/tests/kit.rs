//! What holds for the kit as a whole: its layout, its tables, and the bounds of the helper crate.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::{root, run};

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn entries(folder: &str) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn labs() -> Vec<String> {
    let labs: Vec<_> = entries("labs").iter().map(|path| name(path)).collect();
    assert!(!labs.is_empty());
    labs
}

/// The code of a source file: no blanks, no comments, nothing from `#[cfg(test)]` on.
fn code(source: &str) -> Vec<&str> {
    let lines = source.lines().take_while(|line| *line != "#[cfg(test)]").map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).collect()
}

#[test]
fn the_top_level_holds_what_the_owner_laid_down_and_nothing_else() {
    let allowed = ["Cargo.lock", "Cargo.toml", "NOTES.md", "README.md", "labs", "scripts", "shared", "target"];
    for entry in entries("") {
        let name = name(&entry);
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name} does not belong at the top");
    }
}

#[test]
fn every_lab_has_its_readme_row_its_sheet_its_alias_and_its_tests() {
    let (readme, notes, aliases) = (read("README.md"), read("NOTES.md"), read(".cargo/config.toml"));
    for lab in labs() {
        assert!(readme.contains(&format!("| [{lab}](labs/{lab}/README.md) |")), "{lab} has no row in README.md");
        assert!(notes.contains(&format!("- [{lab}](labs/{lab}/README.md)\n")), "{lab} is not in the index of NOTES.md");
        assert!(read(format!("labs/{lab}/README.md")).starts_with(&format!("# {lab}\n")), "{lab} has no sheet");
        let short = lab.split('-').next().unwrap();
        assert!(aliases.contains(&format!("{short} = \"run --quiet --package {lab} --\"")), "{lab} has no alias");
        assert!(root().join("labs").join(&lab).join(format!("tests/{short}.rs")).is_file(), "{lab} has no tests");
        assert!(
            read(format!("labs/{lab}/Cargo.toml")).contains(&format!("name = \"{lab}\"")),
            "{lab} is named otherwise"
        );
    }
}

#[test]
fn every_sheet_has_the_parts_of_a_sheet() {
    for lab in labs() {
        let section = read(format!("labs/{lab}/README.md"));
        let parts = ["Question", "Predict", "Run", "Break it", "Change it", "Lecture check", "Check questions", "Next"];
        for part in parts {
            assert!(section.contains(&format!("**{part}.**")), "the sheet of {lab} has no {part}");
        }
        for folded in ["<summary>See", "<summary>Why", "<summary>1. ", "<summary>2. ", "<summary>3. "] {
            assert!(section.contains(folded), "the sheet of {lab} has no {folded}");
        }
        assert!(section.contains("minutes"), "the sheet of {lab} says no time");
    }
}

#[test]
fn the_helper_crates_stay_small_and_touch_no_socket_of_a_lab() {
    let calls =
        [".bind(", ".connect(", ".listen(", ".accept(", ".send_to(", ".recv_from(", ".shutdown(", "setsockopt("];
    for folder in ["shared/src", "shared/kernel/src", "shared/roles/src"] {
        let mut lines = 0;
        for path in entries(folder) {
            let source = fs::read_to_string(&path).unwrap();
            let code = code(&source);
            lines += code.len();
            for call in calls {
                assert!(!code.iter().any(|line| line.contains(call)), "{} calls {call}", path.display());
            }
        }
        println!("{folder} has {lines} lines of code");
        assert!(lines <= 700, "{folder} has {lines} lines of code");
    }
}

#[test]
fn every_script_has_a_manual_and_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    for path in entries("scripts").into_iter().filter(|path| name(path) != "lib.sh") {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{} is not executable", path.display());
        let help = run(Command::new(&path).arg("--help"));
        assert_eq!(help.code(), 0, "{help:?}");
        for part in ["Usage:", "Needs:", "How to read it"] {
            assert!(help.stdout.contains(part), "{} --help has no {part}", path.display());
        }
        assert_eq!(run(Command::new(&path).arg("--no-such-option")).code(), 2, "{}", path.display());
    }
}
