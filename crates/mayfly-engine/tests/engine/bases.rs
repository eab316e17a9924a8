//! Templates that somebody needs at the very moment at which they are to go.

use std::sync::{Arc, Mutex};

use mayfly_core::documents::OperationState;
use mayfly_core::error::Code;
use mayfly_core::ids::Digest;
use mayfly_core::plan::base_path;
use mayfly_core::ports::Storage as _;
use mayfly_engine::{Engine, Intent};

use crate::world::{World, create, doc, settle, vps};

/// Templates of one name each, so that removing one gives up its contents.
fn world() -> World {
    let world = World::new(&Arc::default());
    let engine = world.recover();
    remove(&engine, "debian-12");
    settle(&engine);
    world
}

fn remove(engine: &Engine, name: &str) -> mayfly_core::documents::OperationDoc {
    let name = name.parse().unwrap();
    engine
        .submit(None, Intent::TemplateRemove { name }, "test")
        .unwrap()
}

fn there(world: &World, digest: &Digest) -> bool {
    world.host.look(&base_path(digest)).unwrap().is_some()
}

/// "template remove and create accepted at the same moment: the base is buried and the VPS refuses to start."
#[test]
fn a_template_is_not_removed_under_a_vps_that_is_just_being_made() {
    // At each point of the removal, a create is asked for.
    for point in [
        "record_template",
        "record_template.done",
        "bury_template",
        "bury_template.done",
    ] {
        let world = world();
        let engine: Arc<Mutex<Option<Engine>>> = Arc::default();
        let made: Arc<Mutex<Option<Result<(), Code>>>> = Arc::default();
        let (inner, told) = (Arc::clone(&engine), Arc::clone(&made));
        let hooked = world.engine_with(move |passed| {
            let mut told = told.lock().unwrap();
            if passed == point && told.is_none() {
                let engine = inner.lock().unwrap().clone().unwrap();
                let asked = engine.submit(None, create("debian-12-impermanence", true), "test");
                *told = Some(asked.map(drop).map_err(|refusal| refusal.code));
            }
        });
        *engine.lock().unwrap() = Some(hooked.clone());
        let removal = remove(&hooked, "debian-12-impermanence");
        settle(&hooked);
        let removal = hooked.operation(removal.id.as_str()).unwrap();
        let made = made.lock().unwrap().take().expect("the point was passed");
        match made {
            Ok(()) => {
                assert_eq!(removal.state, OperationState::Failed, "at {point}");
                let error = removal.error.unwrap();
                assert_eq!(error.code, Code::TemplateInUse, "{error:?}");
                assert!(world.host.is_running(vps()), "at {point}");
                assert!(there(&world, &doc(&hooked).base.template));
                let names = hooked.templates().unwrap();
                assert_eq!(names.len(), 2, "its record is back: {names:?}");
            }
            Err(code) => {
                assert_eq!(code, Code::TemplateNotFound, "at {point}");
                assert_eq!(removal.state, OperationState::Done, "at {point}");
                assert!(hooked.vpses().unwrap().is_empty());
            }
        }
        *engine.lock().unwrap() = None;
        world.assert_sound(point);
    }
}

#[test]
fn a_start_that_is_under_way_keeps_the_template_that_it_counts_on() {
    use mayfly_core::change::VpsChange;
    use mayfly_core::documents::Track;
    use mayfly_core::fake::FakeRecipe;
    let world = world();
    let engine = world.recover();
    engine
        .submit(None, create("debian-12-impermanence", false), "test")
        .unwrap();
    settle(&engine);
    let old = doc(&engine).base.template;
    let follow = Intent::Set {
        change: VpsChange {
            track: Some(Track::Latest),
            ..VpsChange::default()
        },
    };
    engine.submit(Some(vps()), follow, "test").unwrap();
    settle(&engine);
    let contents = |n: u8| {
        let mut recipe = FakeRecipe::debian_impermanence();
        recipe.built.digest = Digest::from_random([n; 32]);
        world.host.add_recipe("debian-12-impermanence", recipe);
        let name = "debian-12-impermanence";
        let build = Intent::TemplateBuild {
            recipe: name.into(),
            name: name.parse().unwrap(),
            mirror: None,
            replace: true,
        };
        (build, Digest::from_random([n; 32]))
    };
    let (build, second) = contents(2);
    engine.submit(None, build, "test").unwrap();
    settle(&engine);

    // A start has planned with the second contents when the template gets its third, and leftovers are looked for.
    let shared: Arc<Mutex<Option<Engine>>> = Arc::default();
    let inner = Arc::clone(&shared);
    let (build, third) = contents(3);
    let build = Mutex::new(Some(build));
    let hooked = world.engine_with(move |passed| {
        let build = (passed == "create_dataset").then(|| build.lock().unwrap().take());
        if let Some(build) = build.flatten() {
            let engine = inner.lock().unwrap().clone().unwrap();
            engine.submit(None, build, "test").unwrap();
            let other = engine.clone();
            std::thread::scope(|scope| {
                scope.spawn(move || other.reap_once().unwrap());
            });
        }
    });
    *shared.lock().unwrap() = Some(hooked.clone());
    hooked.submit(Some(vps()), Intent::Start, "test").unwrap();
    settle(&hooked);
    *shared.lock().unwrap() = None;
    assert!(world.host.is_running(vps()));
    let now = doc(&hooked);
    assert_eq!(now.run.unwrap().base, Some(second.clone()));
    assert!(there(&world, &second) && there(&world, &third) && !there(&world, &old));
    world.assert_sound("a start while its template gets other contents");
}
