use super::*;

const STATE: Kind = Kind { name: "state", is: |bytes| bytes.starts_with(b"state") };

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_tried_without_a_trace_and_replaced_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let output = Output::new(&path, STATE, false).unwrap();
    assert!(names(folder.path()).is_empty());
    output.write(b"state 1").unwrap();
    fs::hard_link(&path, folder.path().join("old")).unwrap();
    let output = Output::new(&path, STATE, false).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"state 1");
    output.write(b"state 2").unwrap();
    // A file of its own: the old one is as it was.
    assert_eq!(fs::read(folder.path().join("old")).unwrap(), b"state 1");
    assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"state 2".to_vec(), vec!["a".into(), "old".into()]));
}

#[test]
fn strangers_are_refused_unless_forced_and_empty_files_are_nobodys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    for (content, free) in [("state", true), ("", true), ("stat", false), ("my thesis", false)] {
        fs::write(&path, content).unwrap();
        let tried = Output::new(&path, STATE, false);
        assert_eq!(tried.is_ok(), free, "{content}");
        if let Err(error) = tried {
            assert!(error.to_string().contains("a: it is there already and is no state"), "{error}");
            assert!(matches!(error, FileError::Taken { .. }));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    Output::new(&path, STATE, true).unwrap().write(b"state").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"state");
}

#[test]
fn places_that_are_none_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    for place in ["", "no/such/folder", "file/in/a/file", ".", ".."] {
        assert!(matches!(Output::new(&folder.path().join(place), STATE, true), Err(FileError::Io { .. })), "{place}");
    }
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn what_was_never_finished_goes_the_next_time_and_what_is_being_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    for name in
        [".a.77-0.unfinished", ".a.77.unfinished", ".b.77-0.unfinished", ".a.notes.unfinished", "a.77.unfinished"]
    {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let mut first = Replacement::of(&path).unwrap();
    first.file().write_all(b"1").unwrap();
    let mut second = Replacement::of(&path).unwrap();
    second.file().write_all(b"2").unwrap();
    first.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"1");
    second.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"2");
    // Neither another file's nor what only looks alike.
    let left = [".a.notes.unfinished", ".b.77-0.unfinished", "a", "a.77.unfinished"];
    #[cfg(unix)]
    assert_eq!(names(folder.path()), left);
    #[cfg(not(unix))]
    assert!(left.iter().all(|name| folder.path().join(name).exists()));
}

#[test]
fn long_and_strange_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["ü".repeat(127), "a".repeat(255), ".".to_owned() + &"b".repeat(200), " x\ny".into()] {
        replace(&folder.path().join(&name), b"1").unwrap();
        assert_eq!(names(folder.path()).concat(), name);
        fs::remove_file(folder.path().join(name)).unwrap();
    }
}

#[test]
fn lines_are_added_in_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let output = Output::new(&path, Kind::TEXT, false).unwrap();
    assert!(!path.exists());
    output.append(b"1\n").unwrap();
    output.append(b"2").unwrap();
    output.append(b"3\n").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"1\n2\n3\n");
    fs::write(&path, b"\x89PNG\r\n\xff").unwrap();
    assert!(Output::new(&path, Kind::TEXT, false).is_err());
}

#[test]
fn a_lock_is_one_processs_and_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    fs::write(&path, "1\n").unwrap();
    let held = lock(&path).unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(lock(&path).unwrap().unwrap_err(), Some(std::process::id()));
    }
    drop(held);
    assert!(!path.exists());
    drop(lock(&path).unwrap().unwrap());
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::{symlink, FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::thread;

    fn fifo(path: &Path) {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    fn is_link(path: &Path) -> bool {
        fs::symlink_metadata(path).unwrap().is_symlink()
    }

    #[test]
    fn links_stay_links() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("there")).unwrap();
        fs::write(at("there/target"), "state").unwrap();
        symlink("there/target", at("link")).unwrap();
        symlink("link", at("second")).unwrap();
        symlink("there/new", at("dangling")).unwrap();
        for name in ["link", "second", "dangling"] {
            Output::new(&at(name), STATE, false).unwrap().write(format!("state {name}").as_bytes()).unwrap();
            assert!(is_link(&at(name)));
        }
        assert_eq!(fs::read(at("there/target")).unwrap(), b"state second");
        assert_eq!(fs::read(at("there/new")).unwrap(), b"state dangling");
        assert_eq!(names(&at("there")), ["new", "target"]);
        fs::write(at("there/target"), "mine").unwrap();
        // What it leads to is a stranger's; it leads nowhere; it leads to itself.
        symlink("there", at("folder")).unwrap();
        symlink("no/such", at("nowhere")).unwrap();
        symlink("round", at("round")).unwrap();
        assert!(Output::new(&at("link"), STATE, false).is_err());
        for name in ["folder", "nowhere", "round"] {
            assert!(Output::new(&at(name), STATE, true).is_err(), "{name}");
        }
    }

    #[test]
    fn permissions_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        replace(&path, b"state").unwrap();
        let usual = mode();
        fs::write(folder.path().join("usual"), "").unwrap();
        assert_eq!(usual, fs::metadata(folder.path().join("usual")).unwrap().permissions().mode() & 0o777);
        for wanted in [0o600, 0o664, 0o640] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
            replace(&path, b"state").unwrap();
            assert_eq!(mode(), wanted);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let words = Output::new(&path, STATE, false).unwrap_err().to_string();
        assert!(words.contains("write-protected"), "{words}");
        replace(&path, b"forced").unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode()), (b"forced".to_vec(), 0o444));
    }

    #[test]
    fn a_fifo_is_written_through_and_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        fifo(&path);
        symlink("fifo", folder.path().join("link")).unwrap();
        for name in ["fifo", "link"] {
            let place = folder.path().join(name);
            let reader = thread::spawn({
                let path = path.clone();
                move || fs::read(path).unwrap()
            });
            // More than a pipe holds.
            let bytes = vec![7; 1 << 20];
            let output = Output::new(&place, STATE, false).unwrap();
            output.write(&bytes).unwrap();
            drop(output);
            assert!(reader.join().unwrap() == bytes);
            assert!(fs::metadata(&place).unwrap().file_type().is_fifo());
        }
        assert!(is_link(&folder.path().join("link")));
        // Nobody reads it: no waiting for ever.
        assert!(matches!(Output::new(&path, STATE, true), Err(FileError::NoReader { .. })));
    }

    #[test]
    fn a_socket_is_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let output = Output::new(&path, STATE, false).unwrap();
        output.append(b"1\n").unwrap();
        output.append(b"2\n").unwrap();
        drop(output);
        assert_eq!(reader.join().unwrap(), b"1\n2\n");
        // A program that another test starts holds the listener as well, until it is started.
        let gone = || Output::new(&path, STATE, false).is_err();
        let in_time = (0..500).any(|_| {
            thread::sleep(std::time::Duration::from_millis(10));
            gone()
        });
        assert!(in_time, "its listener is gone");
    }

    #[test]
    fn devices_are_written_through() {
        let is_device = |path: &Path| fs::metadata(path).unwrap().file_type().is_char_device();
        let null = Path::new("/dev/null");
        Output::new(null, STATE, false).unwrap().write(b"state").unwrap();
        assert!(is_device(null));
        #[cfg(target_os = "linux")]
        {
            let full = Path::new("/dev/full");
            let words = Output::new(full, STATE, false).unwrap().write(b"state").unwrap_err().to_string();
            assert!(words.starts_with("/dev/full: No space left"), "{words}");
            assert!(is_device(full));
        }
        // One's own, where that is allowed.
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        let made = Command::new("mknod").arg(&own).args(["c", "1", "3"]).output().is_ok_and(|o| o.status.success());
        if made && OpenOptions::new().write(true).open(&own).is_ok() {
            Output::new(&own, STATE, false).unwrap().write(b"state").unwrap();
            assert!(is_device(&own) && names(folder.path()) == ["own"]);
        }
    }

    /// A file that a shell has opened is this process's as it is: another in its place would be nobody's.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_descriptor_is_written_to_where_it_is() {
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut open = File::create(&path).unwrap();
        open.write_all(b"before ").unwrap();
        let descriptor = format!("/dev/fd/{}", open.as_raw_fd());
        symlink(&descriptor, folder.path().join("link")).unwrap();
        for place in [Path::new(&descriptor), &folder.path().join("link")] {
            Output::new(place, STATE, false).unwrap().write(b"state ").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"before state state ");
        assert_eq!(open.metadata().unwrap().len(), 19, "it is the file that was open");
    }
}
