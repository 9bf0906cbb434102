//! Disks that are read-only, full or small: in a private mount namespace, since root ignores modes.

use std::path::Path;
use std::process::{Command, Output};

use super::super::support::*;
use super::{folder_writers, home, writers};

/// Runs shell commands in a private mount namespace, with the binary as `$portray`; `None` where there can be none.
fn mounted(folder: &Path, commands: &str) -> Option<Output> {
    let ready = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    if !ready.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no private mount namespace can be had");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", commands]).current_dir(folder).env("XDG_CACHE_HOME", folder.join(".cache"));
    command.env("portray", env!("CARGO_BIN_EXE_portray")).env("F", fixtures());
    Some(command.output().unwrap())
}

#[test]
fn n09_class_pictures_have_a_place_before_they_are_made() {
    let home = home();
    let train = "$portray train --model $F/sd2 --images pics --prompt x --class-prompt y --class-count 1 --steps 1";
    let commands =
        format!("mkdir ro && mount -t tmpfs -o ro tmpfs ro && XDG_CACHE_HOME=$PWD/ro {train} --out a.safetensors");
    let Some(output) = mounted(home.path(), &commands) else { return };
    let text = stderr(&output);
    assert!(!output.status.success() && text.contains("XDG_CACHE_HOME") && text.contains("--class-images"), "{text}");
    assert!(!text.contains("making"), "{text}");
    assert!(!home.path().join("a.safetensors").exists());
}

#[test]
fn n14_a_disk_too_small_is_seen_before_the_work() {
    let home = home();
    let train = "$portray train --model $F/sd2 --images pics --prompt x --steps 1 --rank 64";
    let commands =
        format!("mkdir small && mount -t tmpfs -o size=64k tmpfs small && {train} --out small/a.safetensors");
    let Some(output) = mounted(home.path(), &commands) else { return };
    let text = stderr(&output);
    assert!(!output.status.success() && text.contains("MB are free") && !text.contains("training\n"), "{text}");
}

/// The disk turns full after the first update: the LoRA is somewhere that is named.
#[test]
fn n14_a_disk_that_turns_full_costs_no_training() {
    let home = home();
    let train = "$portray train --model $F/sd2 --images pics --prompt x --steps 30 --rank 1 --save-every 10 --json";
    let commands = format!(
        "mkdir small && mount -t tmpfs -o size=2m tmpfs small && \
         {{ {train} --out small/a.safetensors; echo \"{{\\\"exit\\\":$?}}\"; }} | while read -r line; do \
         echo \"$line\"; case \"$line\" in *'\"step\":0,'*) cat /dev/zero > small/fill 2>/dev/null;; esac; done"
    );
    let Some(output) = mounted(home.path(), &commands) else { return };
    let text = stdout(&output);
    let place = home.path().join(".cache/portray/results/a-1.safetensors");
    assert!(text.contains("\"exit\":1") && text.contains("a-1.safetensors"), "{text}\n{}", stderr(&output));
    assert!(text.contains("checkpoint of step 10"), "{text}");
    assert!(stderr(&output).contains("a-1.safetensors"), "{}", stderr(&output));
    assert!(portray::low_level::io::LoraFile::open(place, None).is_ok());
}

#[test]
fn kind_read_only_and_full_disks_are_refused_early() {
    let home = home();
    let lines: Vec<String> = writers()
        .into_iter()
        .map(|(line, _)| line)
        .chain(folder_writers())
        .chain(["bench --dump OUT".into(), "demo --out OUT".into()])
        .map(|line| line.replace("{F}", "$F"))
        .collect();
    let mut script = String::from(
        "export VK_ICD_FILENAMES=/nonexistent VK_DRIVER_FILES=/nonexistent; mkdir ro full\n\
         mount -t tmpfs -o ro tmpfs ro; mount -t tmpfs -o size=4k tmpfs full; echo x > full/x\n",
    );
    for place in ["ro", "full"] {
        for line in &lines {
            script +=
                &format!("$portray {} 2>&1 | sed 's/^/{place}: /'\n", line.replace("OUT", &format!("{place}/OUT")));
        }
    }
    let Some(output) = mounted(home.path(), &script) else { return };
    let text = stdout(&output);
    let errors: Vec<&str> = text.lines().filter(|line| line.contains("error: ")).collect();
    assert_eq!(errors.len(), 2 * lines.len(), "{text}\n{}", stderr(&output));
    for error in errors {
        assert!(error.contains("read-only") || error.contains("disk is full"), "{error}");
    }
}
