//! The policy file: who is found by which rule, what a rule gives, and how mistakes are named.

use super::*;

fn read(text: &str) -> Result<Policy, String> {
    Policy::parse(text, Path::new("/etc/corelane/keeper.toml"))
}

fn policy(text: &str) -> Policy {
    read(text).expect("a good policy")
}

fn caller(uid: u32) -> Caller {
    Caller { uid, groups: vec![uid, 777], inside: true }
}

fn devices(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn without_a_file_only_root_may() {
    let policy = Policy::load(Path::new("/nonexistent/keeper.toml")).expect("the default");
    assert!(policy.judge(&caller(0), &[]).is_ok());
    let denied = policy.judge(&caller(54_321), &[]).expect_err("a user");
    assert!(denied.why.contains("/nonexistent/keeper.toml") && denied.why.contains("54321"), "{denied:?}");
    assert!(denied.fix.contains("users = [\"54321\"]"), "{denied:?}");
}

#[test]
fn the_first_rule_for_the_caller_decides() {
    let policy = policy(
        "[[allow]]\nname = 'few'\nusers = [54321]\nlanes = 2\nmemory = '1GiB'\nruns = 3\nconnections = 100\n\
         [[allow]]\ngroups = [777]\n[[allow]]\nusers = ['*']\nlanes = 1\n",
    );
    let few = policy.judge(&caller(54_321), &[]).expect("allowed");
    assert_eq!((few.guard.lanes, few.guard.memory), (Some(2), Some(1 << 30)));
    assert_eq!((few.runs, few.connections), (Some(3), Some(100)));
    assert!(few.guard.rule.contains("`few`"), "{few:?}");
    let by_group = policy.judge(&caller(1), &[]).expect("allowed");
    assert_eq!(by_group.guard.lanes, None);
    let anybody = policy.judge(&Caller { groups: vec![5], ..caller(5) }, &[]).expect("allowed");
    assert_eq!(anybody.guard.lanes, Some(1));
}

#[test]
fn names_are_looked_up() {
    assert!(policy("[[allow]]\nusers = ['root']\n").judge(&caller(0), &[]).is_ok());
    assert!(policy("[[allow]]\nusers = ['nosuchuser']\n").judge(&caller(0), &[]).is_err());
    assert_eq!(number_of("web", "root:x:0:\nweb:x:33:\n"), Some(33));
}

#[test]
fn devices_are_those_of_the_rule() {
    let some = policy("[[allow]]\nusers = ['*']\ndevices = ['eth0', 'tap:cl0']\n");
    let own = "tap:cl0=10.9.0.2/24";
    assert!(some.judge(&caller(9), &devices(&["eth0", own, "lo"])).is_ok());
    let denied = some.judge(&caller(9), &devices(&["eth1"])).expect_err("another");
    assert!(denied.why.contains("`eth1`") && denied.fix.contains("eth0, tap:cl0"), "{denied:?}");
    let leave = some.judge(&caller(9), &[]).expect("allowed");
    assert_eq!((leave.devices, leave.lenient), (devices(&["eth0"]), true));
    // An address of one's own is never given without being named.
    let any = policy("[[allow]]\nusers = ['*']\n");
    assert!(any.judge(&caller(9), &devices(&["eth7"])).is_ok());
    assert!(any.judge(&caller(9), &devices(&[own])).is_err());
    assert!(any.judge(&caller(9), &devices(&["own:eth7=10.9.0.2/24"])).is_err());
}

#[test]
fn a_rule_may_hold_in_the_keepers_namespace_only() {
    let host = policy("[[allow]]\nusers = ['*']\nnamespaces = 'host'\n");
    assert!(host.judge(&caller(9), &[]).is_ok());
    let denied = host.judge(&Caller { inside: false, ..caller(9) }, &[]).expect_err("elsewhere");
    assert!(denied.why.contains("another network namespace"), "{denied:?}");
}

#[test]
fn mistakes_are_named_with_their_line_and_what_there_is() {
    for (text, parts) in [
        ("[[allow]]\nusers = ['*']\ndevcies = ['eth0']\n", &["line 3", "devcies", "devices"][..]),
        ("[[alow]]\n", &["line 1", "alow", "allow"]),
        ("[[allow]]\nusers = ['*']\nports = ['80-70']\n", &["line 3", "80-70", "8000-8999"]),
        ("[[allow]]\nusers = ['*']\naddresses = ['10.0.0.0/33']\n", &["line 3", "10.0.0.0/33"]),
        ("[[allow]]\nusers = ['*']\nmemory = '1 lot'\n", &["line 3", "1 lot", "2GiB"]),
        ("[[allow]]\nusers = ['*']\nlanes = 0\n", &["line 3", "1 to"]),
        ("[[allow]]\nusers = ['*']\ndevices = ['tap:x=1']\n", &["line 3", "/PREFIX"]),
        ("[[allow]]\nusers = ['*']\nnamespaces = 'all'\n", &["line 3", "all", "host"]),
        ("[[allow]]\nlanes = 1\n", &["number 1", "names nobody"]),
    ] {
        let why = read(text).expect_err("wrong");
        assert!(parts.iter().all(|part| why.contains(part)), "{text}: {why}");
    }
}

#[test]
fn networks_and_ranges_hold_what_they_say() {
    let network = |text: &str| Network::try_from(text.to_owned()).expect("a network");
    let addr = |text: &str| text.parse::<IpAddr>().expect("an address");
    assert!(network("10.0.0.0/8").contains(addr("10.255.0.1")));
    assert!(!network("10.0.0.0/8").contains(addr("11.0.0.1")));
    assert!(
        network("10.0.0.1").contains(addr("10.0.0.1")) && !network("10.0.0.1").contains(addr("10.0.0.2"))
    );
    assert!(network("0.0.0.0/0").contains(addr("1.2.3.4")) && !network("0.0.0.0/0").contains(addr("::1")));
    assert!(network("::/0").contains(addr("fe80::1")) && network("fd00::/8").contains(addr("fdff::1")));
    let range = PortRange::try_from(PortText::Text("80-90".to_owned())).expect("a range");
    assert!(range.contains(80) && range.contains(90) && !range.contains(91) && !range.contains(79));
}
