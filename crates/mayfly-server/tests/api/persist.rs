//! What a VPS declares, over the socket.

use mayfly_api::{Change, ChangePersistence, OriginView, PersistenceView};
use mayfly_core::error::Code;
use mayfly_core::names::PoolPath;
use mayfly_core::persist::change::{AddPath, PathKind};
use mayfly_core::persist::declare::{Method, Severity, Tier};
use mayfly_core::persist::path::TreePath;

use crate::harness::{Node, create, refused};

fn at(path: &str) -> TreePath {
    TreePath::parse(path).unwrap()
}

fn add(path: &str, kind: Option<PathKind>, method: Option<Method>) -> Change {
    let wish = AddPath {
        path: at(path),
        kind,
        tier: None,
        method,
    };
    let body = ChangePersistence {
        add: vec![wish],
        remove: Vec::new(),
    };
    Change::change_persistence("web1", &body)
}

fn remove(path: &str) -> Change {
    let body = ChangePersistence {
        add: Vec::new(),
        remove: vec![at(path)],
    };
    Change::change_persistence("web1", &body)
}

async fn told(node: &Node) -> PersistenceView {
    node.client.persistence("web1").await.unwrap()
}

#[tokio::test]
async fn paths_are_declared_over_the_socket() {
    let node = Node::start().await;
    node.template("debian-12-impermanence").await;
    let made = node.done(&create("debian-12-impermanence", true)).await;
    let data = PoolPath::from_pool(&made.vps.unwrap().to_string()).unwrap();
    let before = told(&node).await;
    assert_eq!(
        (before.declarations.len(), &before.file, &before.inactive),
        (0, &None, &None)
    );

    let directory = add("/srv/my data", Some(PathKind::Directory), None);
    let plan = node.client.plan(&directory).await.unwrap().plan;
    assert!(
        plan.lines.len() == 1 && plan.lines[0].contains("declare /srv/my data, a directory"),
        "{plan:?}"
    );
    assert_eq!(told(&node).await, before, "a plan changed something");
    let op = node.done(&directory).await;
    assert_eq!(op.verb, "persist add");
    node.done(&add("/etc/app.conf", None, Some(Method::Copy)))
        .await;
    let now = told(&node).await;
    let shown: Vec<_> = now
        .declarations
        .iter()
        .map(|d| {
            (
                d.path.as_str(),
                d.kind,
                d.method,
                d.tier,
                d.origin,
                d.storage.as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (
                "/srv/my data",
                PathKind::Directory,
                None,
                Tier::Data,
                OriginView::File,
                "/persistent"
            ),
            (
                "/etc/app.conf",
                PathKind::File,
                Some(Method::Copy),
                Tier::Data,
                OriginView::File,
                "/persistent"
            ),
        ]
    );
    assert!(now.problems.is_empty() && now.declarations.iter().all(|d| d.trouble.is_none()));

    for (change, code) in [
        (
            add("/etc/app.conf", None, Some(Method::Copy)),
            Code::PersistExists,
        ),
        (add("/nothing/there", None, None), Code::Invalid),
        (
            add("/dev/x", Some(PathKind::File), None),
            Code::PersistRefused,
        ),
        (remove("/nothing/there"), Code::PersistNotFound),
        (
            Change::change_persistence("web1", &ChangePersistence::default()),
            Code::Invalid,
        ),
    ] {
        let why = node.failed(&change).await;
        assert_eq!(why.code, code, "{change:?}: {}", why.message);
    }
    assert_eq!(told(&node).await, now, "what was refused changed something");

    let op = node.done(&remove("/srv/my data")).await;
    assert_eq!(
        (op.verb.as_str(), told(&node).await.declarations.len()),
        ("persist remove", 1)
    );

    // Whatever the guest makes of its file, it is told.
    let file = "/etc/mayfly/persistence.toml";
    node.host.plant(
        &data,
        file,
        "[\"/persistent\"]\nfiles = [\"/x\", 7]\nwhat\u{0}",
    );
    let bad = told(&node).await;
    assert!(
        bad.declarations.is_empty() && bad.problems[0].severity == Severity::Error,
        "{bad:?}"
    );
    assert_eq!(node.failed(&directory).await.code, Code::PersistNotEditable);
    node.host.fail_looks(file);
    assert_eq!(
        refused(node.client.persistence("web1").await).code,
        Code::CouldNotLook
    );
    node.stop().await;
}

#[tokio::test]
async fn a_vps_without_a_storage_says_so() {
    let node = Node::start().await;
    node.template("debian-12").await;
    node.done(&create("debian-12", false)).await;
    let found = told(&node).await;
    assert!(found.inactive.is_some() && found.storage.is_none());
    let why = node
        .failed(&add("/srv", Some(PathKind::Directory), None))
        .await;
    assert_eq!(why.code, Code::PersistNoStorage);
    node.stop().await;
}
