//! Three that ask for all of the pool at the same time: two are 200 %, and the third is refused.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use mayfly_core::documents::OperationState;
use mayfly_core::error::Code;
use mayfly_core::plan::CreateInput;
use mayfly_core::ports::Storage as _;
use mayfly_engine::Intent;

use crate::world::World;

#[test]
fn creates_at_the_same_time_cannot_promise_more_than_there_may_be() {
    let world = World::new(&Arc::default());
    let capacity = world.host.observe().unwrap().capacity;
    let (go_on, wait) = channel::<()>();
    let (wait, first) = (Mutex::new(wait), OnceLock::new());
    let engine = world.engine_with(move |point| {
        if point == "create_dataset" && first.set(()).is_ok() {
            wait.lock()
                .unwrap()
                .recv_timeout(Duration::from_secs(60))
                .ok();
        }
    });
    engine.start_threads().unwrap();
    let ask = |number: u32| {
        let input = CreateInput {
            id: Some(number.try_into().unwrap()),
            hostname: None,
            // Two are 200 %.
            disk: Some(capacity),
            memory: None,
            cpu_percent: None,
            impermanence: false,
            features: [].into(),
            ssh_keys: None,
        };
        let template = "debian-12".parse().unwrap();
        let create = Intent::Create {
            input,
            template,
            start: false,
        };
        engine.submit(None, create, "test").unwrap()
    };
    let all = [ask(100), ask(101), ask(102)];
    // Two of them are decided while the first has not made anything yet.
    let refused = || {
        let now = all
            .iter()
            .map(|op| engine.wait(&op.id, Duration::ZERO).unwrap());
        now.filter(|op| op.state == OperationState::Failed).count()
    };
    let end = Instant::now() + Duration::from_secs(20);
    while refused() == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(refused(), 1);
    go_on.send(()).unwrap();
    let late: Vec<_> = all
        .iter()
        .map(|op| engine.wait(&op.id, Duration::from_secs(20)).unwrap())
        .collect();
    let failed: Vec<_> = late
        .iter()
        .filter(|op| op.state == OperationState::Failed)
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].error.as_ref().unwrap().code, Code::PoolFull);
    engine.stop_threads();
    world.recover();
    world.assert_sound("two of three");
}
