//! A unix path leads to the serving generation, whatever start scripts, servers and users do with its directory and its
//! names.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tempfile::TempDir;

use crate::capture::find;
use crate::common::eventually;
use crate::common::place::{Place, Target};
use crate::common::site::Site;

/// A server in Python on the path that it is given. It answers with its generation, and calls a function of the test's
/// own at some moments.
const SERVER: &str = r"
import os, signal, socket, sys, time
path = os.path.abspath(sys.argv[1])
generation = int(os.environ['HOTSWAP_GENERATION'])
os.umask(0o022)

def bound(): pass
def listening(): pass
OWN
one = socket.socket(socket.AF_UNIX, globals().get('kind', socket.SOCK_STREAM))
one.bind(bind_to if 'bind_to' in globals() else path)
bound()
one.listen(100)
listening()
while True:
    client = one.accept()[0]
    try:
        client.recv(1000)
        client.sendall(b'%d' % generation)
    except OSError:
        pass  # it was only a probe
    client.close()
";

struct House {
    dir: TempDir,
    path: PathBuf,
    kind: SockType,
}

impl House {
    /// Its path is `run/s.sock` in a directory of its own.
    fn new() -> House {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("run")).expect("a directory");
        let path = dir.path().join("run/s.sock");
        let kind = SockType::Stream;
        House { dir, path, kind }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A site whose start script does this first, in the directory of the house, and whose server has that of its own.
    fn serving(&self, script: &str, own: &str) -> Option<Site> {
        find("python3")?;
        let server = self.dir().join("server.py");
        fs::write(&server, SERVER.replace("OWN", own)).expect("a server");
        let script = format!(
            "cd '{}'\n{script}\nexec python3 server.py run/s.sock",
            self.dir().display()
        );
        let site = Site::at(Place::Given(Target::Unix(self.path.clone())))
            .with(&["--capture", "always", "--poll", "200ms"])
            .watching()
            .by_program("/bin/sh".into(), &["-c", &script])
            .serving("");
        assert_eq!(self.answered_by(), 1);
        Some(site)
    }

    /// The generation that answers at the path.
    fn answer(&self) -> Option<u32> {
        let client = socket(AddressFamily::Unix, self.kind, SockFlag::empty(), None).ok()?;
        let path = UnixAddr::new(&self.path).ok()?;
        connect(client.as_raw_fd(), &path).ok()?;
        let mut client = UnixStream::from(client);
        client.write_all(b"who").ok()?;
        let mut text = String::new();
        client.read_to_string(&mut text).ok()?;
        text.parse().ok()
    }

    fn answered_by(&self) -> u32 {
        eventually("an answer", || self.answer())
    }

    fn expect_answered_by(&self, generation: u32) {
        eventually(&format!("an answer of generation {generation}"), || {
            (self.answer() == Some(generation)).then_some(())
        });
    }

    fn mode(&self) -> u32 {
        let found = fs::metadata(&self.path).expect("the path");
        found.permissions().mode() & 0o777
    }
}

/// Each swap is a good one, and the path leads to the new generation alone.
fn swaps(site: &Site, house: &House) {
    for generation in 2..=4 {
        site.swap();
        assert_eq!(house.answered_by(), generation);
        site.wait_until_gone(generation - 1);
        assert_eq!(house.answered_by(), generation);
    }
}

/// A server behind such a start script, which has that of its own.
fn is_swapped(script: &str, own: &str) {
    let house = House::new();
    if let Some(site) = house.serving(script, own) {
        swaps(&site, &house);
    }
}

/// A candidate that ends where `own` does.
fn changes_nothing_when_it_dies(own: &str) {
    let house = House::new();
    let own = format!("{own}    if generation == 2: sys.exit(3)\n");
    let Some(site) = house.serving("", &own) else {
        return;
    };
    site.swap_in_vain();
    house.expect_answered_by(1);
    site.swap();
    house.expect_answered_by(3);
}

const MOVES: &str = "rm -rf run.old; if [ -e run ]; then mv run run.old; fi; mkdir run";

#[test]
fn a_start_script_may_move_its_directory_away() {
    is_swapped(MOVES, "");
}

/// Somebody has removed all names of the socket that serves, and the server tends its own as it would without hotswap.
#[test]
fn a_path_that_leads_nowhere_is_the_next_ones() {
    let house = House::new();
    let own = "def bound(): os.chmod(path, 0o666)";
    let Some(site) = house.serving("", own) else {
        return;
    };
    site.while_stopped(|_| {
        for name in fs::read_dir(house.dir().join("run")).expect("names") {
            fs::remove_file(name.expect("a name").path()).expect("removed");
        }
    });
    site.log.wait_for("s.sock leads to nothing");
    swaps(&site, &house);
    assert_eq!(house.mode(), 0o666);
    assert_eq!(site.log.count("leads to"), 1);
}

#[test]
fn a_start_script_may_make_its_directory_anew() {
    is_swapped("rm -rf run; mkdir run", "");
}

#[test]
fn a_directory_may_be_a_link_that_each_generation_sets_anew() {
    let house = House::new();
    let script = "rm -rf run.$HOTSWAP_GENERATION; mkdir run.$HOTSWAP_GENERATION\n\
        if [ -d run ] && [ ! -L run ]; then rmdir run; fi\n\
        ln -sfn run.$HOTSWAP_GENERATION run";
    if let Some(site) = house.serving(script, "") {
        swaps(&site, &house);
    }
}

#[test]
fn a_path_that_a_candidate_took_away_leads_back_after_an_abort() {
    let house = House::new();
    let script = format!("{MOVES}; if [ $HOTSWAP_GENERATION = 2 ]; then exit 3; fi");
    let Some(site) = house.serving(&script, "") else {
        return;
    };
    site.swap_in_vain();
    house.expect_answered_by(1);
    site.swap();
    house.expect_answered_by(3);
}

/// Its connections keep messages apart. It removes the path before it binds, as servers do, and the second one dies then.
const PACKETS: &str = "
kind = socket.SOCK_SEQPACKET
if os.path.exists(path):
    os.unlink(path)
def bound():
    if generation == 2:
        os._exit(3)
";

#[test]
fn a_path_of_packets_leads_back_after_an_abort_and_survives_swaps() {
    let kind = SockType::SeqPacket;
    let house = House {
        kind,
        ..House::new()
    };
    let Some(site) = house.serving("", PACKETS) else {
        return;
    };
    site.swap_in_vain();
    house.expect_answered_by(1);
    for generation in 3..=4 {
        site.swap();
        assert_eq!(house.answered_by(), generation);
        site.log.wait_for("generation 1 is gone");
        assert_eq!(house.answered_by(), generation);
    }
    kill(site.pid(4), Signal::SIGKILL).expect("a signal to the server");
    house.expect_answered_by(5);
}

/// It binds its path once more before it closes its first socket, as servers do that read their settings again.
const BINDS_AGAIN: &str = "
if os.path.exists(path):
    os.unlink(path)
def listening():
    global one
    os.unlink(path)
    another = socket.socket(socket.AF_UNIX)
    another.bind(path)
    another.listen(100)
    one.close()
    one = another
";

#[test]
fn a_server_may_unlink_its_path_and_bind_it_again_beside_its_first_socket() {
    is_swapped("", BINDS_AGAIN);
}

/// It binds a name of its own, and renames that once it listens.
const RENAMES: &str = "
bind_to = path + '.tmp'
def listening():
    os.rename(bind_to, path)
";

#[test]
fn a_server_may_rename_its_socket_to_the_path() {
    is_swapped("", RENAMES);
}

#[test]
fn a_candidate_that_renamed_its_socket_and_died_changes_nothing() {
    changes_nothing_when_it_dies(RENAMES);
}

/// The way round the most that an address can hold. The last one dies as soon as it has bound.
const BY_DESCRIPTOR: &str = "
directory = os.open(os.path.dirname(path), os.O_PATH)
bind_to = 'THROUGH/%d/s.sock' % directory
if os.path.exists(bind_to):
    os.unlink(bind_to)
def bound():
    os.close(directory)
    if generation == 5:
        os._exit(3)
";

#[test]
fn a_path_may_be_named_by_a_descriptor_of_its_directory() {
    for through in ["/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"] {
        let house = House::new();
        let own = BY_DESCRIPTOR.replace("THROUGH", through);
        let Some(site) = house.serving("", &own) else {
            return;
        };
        swaps(&site, &house);
        site.swap_in_vain();
        assert_eq!(house.answer(), Some(4), "{through}");
    }
}

/// Each generation has a path of its own, to which it leads the link that clients come by.
const LINKS: &str = "
bind_to = path + '.%d' % generation
def listening():
    os.symlink(bind_to, path + '.new')
    os.rename(path + '.new', path)
";

#[test]
fn a_path_may_be_a_link_that_each_generation_sets_anew() {
    is_swapped("", LINKS);
}

#[test]
fn a_link_that_a_candidate_set_and_died_leads_back() {
    changes_nothing_when_it_dies(LINKS);
}

/// From outside: what is gone cannot be put back, which is said once, and the next swap heals it.
#[test]
fn a_directory_that_was_replaced_is_said_and_healed_by_the_next_swap() {
    let house = House::new();
    let Some(site) = house.serving("", "") else {
        return;
    };
    fs::remove_dir_all(house.dir().join("run")).expect("the directory");
    fs::create_dir(house.dir().join("run")).expect("a new one");
    let path = house.path.display();
    site.log.wait_for(&format!("{path} leads to nothing"));
    site.swap();
    house.expect_answered_by(2);
    assert_eq!(site.log.count("leads to nothing"), 1);
}

#[test]
fn a_path_that_somebody_removed_is_put_back() {
    let house = House::new();
    let Some(site) = house.serving("", "") else {
        return;
    };
    fs::remove_file(&house.path).expect("the path");
    house.expect_answered_by(1);
    fs::rename(house.dir().join("run"), house.dir().join("run.old")).expect("the directory");
    fs::create_dir(house.dir().join("run")).expect("a new one");
    house.expect_answered_by(1);
    assert_eq!(site.log.count("leads to"), 0);
}

#[test]
fn each_generation_has_the_mode_of_its_own_umask() {
    let house = House::new();
    let own = "os.umask(0 if generation == 1 else 0o177)";
    let Some(site) = house.serving("", own) else {
        return;
    };
    assert_eq!(house.mode(), 0o777);
    site.swap();
    house.expect_answered_by(2);
    assert_eq!(house.mode(), 0o600);
}

/// It cannot know that the path is another's still.
#[test]
fn a_mode_that_a_candidate_sets_is_that_of_its_own_socket() {
    let house = House::new();
    let own = "
def listening():
    os.chmod(path, 0o700 if generation == 1 else 0o600)
    if generation == 2: time.sleep(1)
    if generation == 2: sys.exit(3)
    if generation == 3: time.sleep(1)
    if generation == 3: os.chmod(path, 0o666)
";
    let Some(site) = house.serving("", own) else {
        return;
    };
    assert_eq!(house.mode(), 0o700);
    site.swap_in_vain();
    assert_eq!(house.mode(), 0o700, "one that died changed it");
    site.swap();
    house.expect_answered_by(3);
    assert_eq!(house.mode(), 0o666);
}

/// It has no socket there yet that could have the mode.
#[test]
fn a_mode_that_a_candidate_sets_before_it_listens_is_gone_with_it() {
    for then in ["pass", "time.sleep(0.3)"] {
        let house = House::new();
        let own = format!(
            "
def bound():
    os.chmod(path, 0o600 if generation == 1 else 0o666)
    if generation == 2:
        {then}
        sys.exit(3)
"
        );
        let Some(site) = house.serving("", &own) else {
            return;
        };
        assert_eq!(house.mode(), 0o600);
        site.swap_in_vain();
        eventually("the mode that it had", || {
            (house.mode() == 0o600).then_some(())
        });
        site.swap();
        house.expect_answered_by(3);
        assert_eq!(house.mode(), 0o666);
    }
}

/// As most servers do at each start: the path has that mode already.
#[test]
fn a_mode_that_each_generation_sets_anew_is_kept() {
    let moments = [
        (0o022, "listening", 0o666),
        (0, "listening", 0o600),
        (0o022, "bound", 0o660),
    ];
    for (umask, moment, own) in moments {
        let house = House::new();
        let set =
            format!("os.umask({umask})\ndef {moment}(): os.chmod(path, {own}); time.sleep(0.5)");
        let Some(mut site) = house.serving("", &set) else {
            return;
        };
        assert_eq!(house.mode(), own);
        for generation in 2..=3 {
            site.swap();
            house.expect_answered_by(generation);
            assert_eq!(house.mode(), own, "of generation {generation}");
        }
        site.kill_hotswap().start_again();
        site.log.wait_for("generation 4 is serving");
        house.expect_answered_by(4);
        assert_eq!(house.mode(), own, "of one that came by an adoption");
    }
}

/// One that an administrator has set stays with the generation that serves.
#[test]
fn a_mode_that_is_set_while_nothing_starts_is_that_of_the_serving_generation() {
    let house = House::new();
    let Some(site) = house.serving("", "if generation == 2: sys.exit(3)") else {
        return;
    };
    fs::set_permissions(&house.path, Permissions::from_mode(0o701)).expect("the path");
    site.swap_in_vain();
    assert_eq!(house.mode(), 0o701);
    house.expect_answered_by(1);
}
