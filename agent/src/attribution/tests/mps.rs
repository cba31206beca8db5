//! Devices that are used through MPS.

use super::*;

const SERVER: u32 = 90;

/// A process of MPS, or what calls itself so, of a user and in a unit of its own.
fn mps_process(node: &Node, pid: u32, parent: u32, uid: u32, program: &str) {
    node.process(pid, 10, "/system.slice/mps.service");
    let folder = node.0.path().join("proc").join(pid.to_string());
    let rewrite = |name: &str, from: &str, to: &str| {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        fs::write(folder.join(name), text.replace(from, to)).unwrap();
    };
    rewrite("stat", "(a) b) c) S 1 ", &format!("(nvidia-cuda-mps) S {parent} "));
    rewrite("status", "Uid:\t1000\t1000", &format!("Uid:\t{uid}\t{uid}"));
    fs::write(folder.join("cmdline"), format!("/usr/bin/{program}\0")).unwrap();
}

/// A server of `uid` below `parent`, and two jobs of user 1000.
fn node(parent: u32, uid: u32) -> Node {
    let node = Node::new();
    mps_process(&node, SERVER, parent, uid, "nvidia-cuda-mps-server");
    for (pid, job) in [(7, 12), (8, 13)] {
        node.process(pid, 20, &format!("/system.slice/slurmstepd.scope/job_{job}/step_0/user/task_0"));
    }
    node
}

/// Whose the device is with the server and these processes on it: `(pid, job or unit, inferred)`.
fn holders(attribution: &mut Attribution, pids: &[u32], are_clients: bool) -> Vec<(u32, String, bool)> {
    let process = |pid: &u32| DeviceProcess {
        pid: *pid,
        memory_bytes: None,
        mps_client: are_clients && *pid != SERVER,
    };
    let processes: Vec<DeviceProcess> = pids.iter().map(process).collect();
    let now = Now { reading: reading(100), ledger_ns: 1_100 * S };
    let (holders, _) = attribution.resolve(&device().info, None, &processes, now);
    let word = |holder: &Holder| format!("{}{}", holder.owner.job_id, holder.owner.unit);
    holders.iter().map(|holder| (holder.pid, word(holder), holder.inferred)).collect()
}

fn holds(pid: u32, whose: &str) -> (u32, String, bool) {
    (pid, whose.to_owned(), false)
}

#[test]
fn where_clients_are_listed_they_hold_and_their_server_does_not() {
    for (parent, uid) in [(1, 0), (1, 1000)] {
        let held = holders(&mut node(parent, uid).attribution(), &[7, 8, SERVER], true);
        assert_eq!(held, [holds(7, "12"), holds(8, "13")], "a server of {uid}");
    }
}

#[test]
fn a_server_whose_clients_went_holds_nothing() {
    let node = node(1, 0);
    let mut attribution = node.attribution();
    holders(&mut attribution, &[7, SERVER], true);
    assert_eq!(holders(&mut attribution, &[SERVER], true), []);
}

#[test]
fn where_clients_are_not_listed_the_server_is_nobody_by_name() {
    let nobody = (SERVER, "nvidia-cuda-mps-server".to_owned(), true);
    assert_eq!(holders(&mut node(1, 0).attribution(), &[SERVER], false), std::slice::from_ref(&nobody));
    // The daemon is root's, the server is started as the clients' user.
    let node = node(89, 1000);
    mps_process(&node, 89, 1, 0, "nvidia-cuda-mps-control");
    let mut attribution = node.attribution();
    assert_eq!(holders(&mut attribution, &[SERVER], false), [nobody]);
    let life = &attribution.lives[&SERVER];
    assert_eq!(life.owner.unit, "mps.service", "what is known of the process itself stays");
}

#[test]
fn who_calls_itself_a_server_and_is_none_holds() {
    // Of another user than a client's, and no daemon of root's started it.
    let held = holders(&mut node(1, 1001).attribution(), &[7, SERVER], true);
    assert_eq!(held, [holds(7, "12"), holds(SERVER, "mps.service")]);
    // Where no client vouches for it.
    assert_eq!(holders(&mut node(1, 1000).attribution(), &[SERVER], false), [holds(SERVER, "mps.service")]);
    // Started by a user's own daemon.
    let started = node(89, 1001);
    mps_process(&started, 89, 1, 1001, "nvidia-cuda-mps-control");
    let held = holders(&mut started.attribution(), &[7, SERVER], true);
    assert_eq!(held, [holds(7, "12"), holds(SERVER, "mps.service")]);
    // Started as something else.
    let other = node(1, 0);
    fs::write(other.0.path().join("proc/90/cmdline"), "python3\0").unwrap();
    assert_eq!(holders(&mut other.attribution(), &[7, SERVER], true).len(), 2);
}

#[test]
fn root_in_a_container_is_not_believed() {
    let node = node(1, 0);
    let status = node.0.path().join("proc/90/status");
    let text = fs::read_to_string(&status).unwrap();
    let nested =
        |line: &str| if line.starts_with("NSpid:") { "NSpid:\t90\t1\n".into() } else { format!("{line}\n") };
    fs::write(&status, text.lines().map(nested).collect::<String>()).unwrap();
    let held = holders(&mut node.attribution(), &[7, SERVER], true);
    assert_eq!(held, [holds(7, "12"), holds(SERVER, "mps.service")]);
}

#[test]
fn a_server_that_is_a_client_itself_holds() {
    let node = node(1, 0);
    let process = DeviceProcess { pid: SERVER, memory_bytes: None, mps_client: true };
    let now = Now { reading: reading(100), ledger_ns: 1_100 * S };
    let (held, _) = node.attribution().resolve(&device().info, None, &[process], now);
    assert_eq!(held.len(), 1);
}
