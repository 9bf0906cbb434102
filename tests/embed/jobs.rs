//! Jobs by steps: the same results as at once, several at a time, and what goes wrong is an error of the job.

use std::sync::Arc;
use std::time::Duration;

use portray::{
    Budget, CancelToken, Engine, EngineOptions, Error, Event, Flow, GenerateOptions, Job, Model, ModelOptions,
    TrainOptions,
};

use super::host::{Host, fixture, small_bundled_job, tiny, tiny_job, tiny_options};

fn picture(host: &Host, job: GenerateOptions, budget: Budget) -> Vec<u8> {
    let mut work = host.engine.start_generate(job);
    host.finish(&mut work, budget).unwrap();
    host.read(&work.pictures()[0])
}

#[test]
fn any_budget_gives_the_same_picture() {
    let host = Host::shared();
    let expected = picture(host, small_bundled_job(2), Budget::dispatches(usize::MAX));
    for budget in [
        Budget::dispatches(1),
        Budget::dispatches(37),
        Budget::time(Duration::from_millis(50)),
        // So short that nearly every dispatch is run in slices.
        Budget::time(Duration::from_micros(300)),
        Budget::time(Duration::from_millis(5)).at_most(3),
    ] {
        assert!(picture(host, small_bundled_job(2), budget) == expected, "{budget:?}");
    }
    let other = GenerateOptions { prompts: vec!["a dog".into()], ..small_bundled_job(2) };
    assert!(picture(host, other, Budget::time(Duration::from_millis(50))) != expected);
}

#[test]
fn kept_weights_give_the_same_pictures_and_go_when_told() {
    let host = Host::generous();
    let (model, fresh) = (tiny(&host.engine), tiny(&host.engine));
    let small = GenerateOptions { prompts: vec!["a dog".into()], ..tiny_job() };
    let mut large = tiny_job();
    (large.sampling.width, large.sampling.guidance) = (Some(64), Some(1.0));
    let made = |model: &Arc<Model>, job: &GenerateOptions| {
        let mut work = host.engine.start_generate_with(model.clone(), job.clone());
        host.finish(&mut work, Budget::time(Duration::from_millis(50))).unwrap();
        let picture = host.read(&work.pictures()[0]);
        drop(work);
        host.present();
        (picture, host.engine.gpu().allocated_bytes().unwrap())
    };
    let expected = [made(&fresh, &small), made(&fresh, &large)];
    model.keep_weights(true);
    let (first, held) = made(&model, &small);
    assert!(first == expected[0].0 && held > expected[0].1 + 100_000, "{held} bytes, {} without", expected[0].1);
    // What a job puts beside the weights is no more than its own: another size, without guidance, and back.
    for (job, expected) in [(&large, &expected[1]), (&small, &expected[0])] {
        let (again, after) = made(&model, job);
        assert!(again == expected.0 && after == held, "{after} bytes, {held} before");
    }
    // Given up in the middle, a job leaves weights that are whole or none.
    let mut given_up = host.engine.start_generate_with(model.clone(), small.clone());
    (0..40).for_each(|_| drop(given_up.step(Budget::dispatches(3)).unwrap()));
    drop(given_up);
    assert!(made(&model, &small) == (expected[0].0.clone(), held));
    model.keep_weights(false);
    host.present();
    assert_eq!(host.engine.gpu().allocated_bytes().unwrap(), expected[1].1);
}

fn training(out: std::path::PathBuf) -> TrainOptions {
    TrainOptions {
        model: tiny_options(),
        replay: Some(fixture("sd2-train/replay.safetensors")),
        init_lora: Some(fixture("sd2-train/init.lora-peft.safetensors")),
        lr: Some(1e-3),
        steps: Some(3),
        out,
        ..Default::default()
    }
}

#[test]
fn any_budget_gives_the_same_lora() {
    let host = Host::shared();
    let folder = tempfile::tempdir().unwrap();
    let trained = |name: &str, budget: Option<Budget>| {
        let job = training(folder.path().join(name));
        let done = match budget {
            None => pollster::block_on(host.engine.train(&job, &mut |_| portray::Flow::Continue)).unwrap(),
            Some(budget) => host.finish(&mut host.engine.start_train(job), budget).unwrap(),
        };
        // In memory as well as on disk.
        let (lora, again) = (done.lora.unwrap(), folder.path().join("again.safetensors"));
        lora.write(&again, Default::default()).unwrap();
        let written = std::fs::read(folder.path().join(name)).unwrap();
        assert!(!lora.modules.is_empty() && std::fs::read(again).unwrap() == written);
        written
    };
    let expected = trained("at-once.safetensors", None);
    assert!(trained("dispatches.safetensors", Some(Budget::dispatches(11))) == expected);
    assert!(trained("slices.safetensors", Some(Budget::time(Duration::from_micros(300)))) == expected);
    let start = std::fs::read(fixture("sd2-train/init.lora-peft.safetensors")).unwrap();
    assert!(start != expected);
}

/// Browsers and many hosts give a thread one megabyte.
#[test]
fn a_thread_with_little_stack_is_enough() {
    let host = Host::shared();
    let folder = tempfile::tempdir().unwrap();
    let job = training(folder.path().join("lora.safetensors"));
    let work = move || {
        host.finish(&mut host.engine.start_train(job), Budget::dispatches(1000)).unwrap();
        host.finish(&mut host.engine.start_generate(tiny_job()), Budget::dispatches(1000)).unwrap();
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(work).unwrap().join().unwrap();
}

/// Two steps on real images, cropped at random, with class images.
fn training_on_pictures(out: std::path::PathBuf) -> TrainOptions {
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects");
    TrainOptions {
        replay: None,
        init_lora: None,
        images: Some(assets.join("cat")),
        prompt: Some("a sks cat".into()),
        class_prompt: Some("a dog".into()),
        class_images: Some(assets.join("dog")),
        resolution: Some(32),
        steps: Some(2),
        ..training(out)
    }
}

#[test]
fn pictures_train_the_same_by_steps_on_a_device_with_default_limits() {
    let host = Host::modest();
    let folder = tempfile::tempdir().unwrap();
    let at_once = training_on_pictures(folder.path().join("at-once.safetensors"));
    pollster::block_on(host.engine.train(&at_once, &mut |_| portray::Flow::Continue)).unwrap();
    let by_steps = training_on_pictures(folder.path().join("by-steps.safetensors"));
    host.finish(&mut host.engine.start_train(by_steps.clone()), Budget::time(Duration::from_millis(20))).unwrap();
    assert!(std::fs::read(&at_once.out).unwrap() == std::fs::read(&by_steps.out).unwrap());
}

#[test]
fn two_engines_work_at_once_in_one_process() {
    let hosts = [Host::modest(), Host::generous()];
    let folder = tempfile::tempdir().unwrap();
    let expected = picture(&hosts[0], tiny_job(), Budget::dispatches(500));
    let mut forms = hosts[0].engine.start_generate(tiny_job());
    let mut trains = hosts[1].engine.start_train(training(folder.path().join("lora.safetensors")));
    let budget = Budget::dispatches(40);
    let mut together = 0;
    while !forms.is_over() || !trains.is_over() {
        together += usize::from(!forms.is_over() && !trains.is_over());
        if !forms.is_over() {
            forms.step(budget).unwrap();
            hosts[0].present();
        }
        if !trains.is_over() {
            trains.step(budget).unwrap();
            hosts[1].present();
        }
    }
    assert!(together > 10, "{together}");
    assert!(hosts[0].read(&forms.pictures()[0]) == expected);
    assert!(folder.path().join("lora.safetensors").exists());
}

#[test]
fn a_device_that_the_engine_opened_can_be_driven_and_rendered_with() {
    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).unwrap();
    let host = Host { device: engine.device().clone(), queue: engine.queue().clone(), engine };
    assert!(!picture(&host, tiny_job(), Budget::dispatches(500)).is_empty());
}

#[test]
fn several_jobs_share_an_engine() {
    let host = Host::shared();
    let model = tiny(&host.engine);
    let job = |prompt: &str| GenerateOptions { prompts: vec![prompt.into()], ..tiny_job() };
    let prompts = ["a dog", "a cat", "a tree"];
    let alone: Vec<Vec<u8>> =
        prompts.iter().map(|p| picture(host, job(p), Budget::time(Duration::from_millis(50)))).collect();
    let mut works: Vec<Job<_>> =
        prompts.iter().map(|p| host.engine.start_generate_with(model.clone(), job(p))).collect();
    while works.iter().any(|work| !work.is_over()) {
        for work in works.iter_mut().filter(|work| !work.is_over()) {
            work.step(Budget::dispatches(50)).unwrap();
        }
        host.present();
    }
    for (work, alone) in works.iter().zip(&alone) {
        assert!(host.read(&work.pictures()[0]) == *alone);
    }
    assert!(alone[0] != alone[1] && alone[1] != alone[2]);
}

#[test]
fn a_stopped_training_saves_its_state_and_goes_on() {
    let host = Host::shared();
    let folder = tempfile::tempdir().unwrap();
    let whole = training(folder.path().join("whole.safetensors"));
    host.finish(&mut host.engine.start_train(whole.clone()), Budget::dispatches(500)).unwrap();
    let job = training(folder.path().join("stopped.safetensors"));
    let mut work = host.engine.start_train(job.clone());
    let error = loop {
        match work.step(Budget::dispatches(100)) {
            Ok(None) => host.present(),
            Ok(Some(_)) => panic!("it was stopped"),
            Err(e) => break e,
        }
        if work.events().any(|event| matches!(event, Event::Step(_))) {
            work.stop();
        }
    };
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert!(matches!(work.step(Budget::dispatches(1)), Err(Error::Usage { .. })));
    let resumed = TrainOptions { resume: true, ..job.clone() };
    host.finish(&mut host.engine.start_train(resumed), Budget::dispatches(500)).unwrap();
    assert!(std::fs::read(&job.out).unwrap() == std::fs::read(&whole.out).unwrap());
}

/// A token ends what its engine runs and starts, a job's own that job alone, and both may come from another thread.
#[test]
fn a_token_cancels_from_any_thread() {
    let host = Host::shared();
    let token = CancelToken::new();
    let engine = host.engine.clone().with_cancel(&token);
    let options = || {
        let mut options = GenerateOptions { count: 2, ..tiny_job() };
        options.sampling.steps = Some(4);
        options
    };
    let mut jobs = [engine.start_generate(options()), engine.start_generate(options())];
    let one = jobs[0].cancel_token();
    std::thread::spawn(move || one.cancel()).join().unwrap();
    let error = host.finish(&mut jobs[0], Budget::dispatches(500)).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert!(matches!(jobs[1].step(Budget::dispatches(10)), Ok(None)) && !token.is_cancelled());

    // Between two events as well: the listener hears no more than one after the cancelling one.
    let mut heard = Vec::new();
    let canceller = token.clone();
    let result = pollster::block_on(engine.generate(&options(), |event| {
        if matches!(event, Event::Progress { unit: "step", done: 2, .. }) {
            let canceller = canceller.clone();
            std::thread::spawn(move || canceller.cancel()).join().unwrap();
        }
        heard.push(event);
        Flow::Continue
    }));
    assert!(matches!(result, Err(Error::Interrupted { .. })), "{:?}", result.err());
    assert!(matches!(heard.last(), Some(Event::Progress { unit: "step", done: 2, .. })), "{:?}", heard.last());
    assert!(host.finish(&mut jobs[1], Budget::dispatches(500)).is_err());
    assert!(host.engine.start_generate(options()).step(Budget::dispatches(10)).is_ok());
    assert!(host.finish(&mut engine.start_generate(options()), Budget::dispatches(10)).is_err());
}

#[test]
fn a_lost_device_is_an_error_of_every_job_and_the_host_begins_anew() {
    let host = Host::modest();
    let lost = host.engine.clone();
    host.device.set_device_lost_callback(move |_, message| lost.device_lost(&message));
    let model = tiny(&host.engine);
    let mut works = [(); 2].map(|()| host.engine.start_generate_with(model.clone(), tiny_job()));
    for work in &mut works {
        work.step(Budget::dispatches(30)).unwrap();
    }
    host.device.destroy();
    for work in &mut works {
        let error = loop {
            let _ = host.device.poll(wgpu::PollType::Poll);
            match work.step(Budget::dispatches(30)) {
                Ok(done) => assert!(done.is_none()),
                Err(e) => break e,
            }
        };
        // What is invalid with its device may be reported before the host hears of the loss.
        assert!(matches!(&error, Error::Device(_)), "{error}");
    }
    while host.engine.gpu().check().is_ok() {
        host.device.poll(wgpu::PollType::Poll).unwrap();
    }
    let error = host.engine.start_generate_with(model, tiny_job()).step(Budget::dispatches(30)).unwrap_err();
    assert!(error.to_string().contains("the device was lost"), "{error}");
    let host = Host::modest();
    picture(&host, tiny_job(), Budget::time(Duration::from_millis(50)));
}

#[test]
fn errors_are_the_jobs_and_not_the_hosts() {
    let host = Host::with_textures(256);
    host.device.on_uncaptured_error(std::sync::Arc::new(|e| panic!("the host heard {e}")));
    let job = GenerateOptions { prompts: Vec::new(), ..tiny_job() };
    let error = host.finish(&mut host.engine.start_generate(job), Budget::dispatches(10)).unwrap_err();
    assert!(matches!(error, Error::Usage { .. }), "{error}");
    let job = GenerateOptions {
        model: ModelOptions { model: Some("/none/such".into()), ..Default::default() },
        ..tiny_job()
    };
    let error = host.finish(&mut host.engine.start_generate(job), Budget::dispatches(10)).unwrap_err();
    assert!(error.to_string().contains("/none/such"), "{error}");
    // What wgpu reports within a step ends the job: its device cannot make a texture of this size.
    let mut job = tiny_job();
    (job.sampling.width, job.sampling.height) = (Some(512), Some(8));
    job.sampling.steps = Some(1);
    let error = host.finish(&mut host.engine.start_generate(job), Budget::dispatches(100)).unwrap_err();
    assert!(matches!(error, Error::Device(_) | Error::Limit(_)), "{error}");
}

#[test]
fn errors_of_what_may_block_are_not_the_hosts_either() {
    let host = Host::modest();
    host.device.on_uncaptured_error(std::sync::Arc::new(|e| panic!("the host heard {e}")));
    // Nothing may be copied from it.
    let texture = host.device.create_texture(&wgpu::TextureDescriptor {
        label: Some("sampled alone"),
        size: wgpu::Extent3d { width: 8, height: 8, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: wgpu::TextureFormat::Rgba8Unorm,
        usage: wgpu::TextureUsages::TEXTURE_BINDING,
        view_formats: &[],
    });
    let error = pollster::block_on(host.engine.read(&texture)).unwrap_err();
    assert!(matches!(error, Error::Device(_)) && error.to_string().contains("sampled alone"), "{error}");
    assert!(!picture(&host, tiny_job(), Budget::dispatches(500)).is_empty());
}

#[test]
fn no_adapter_is_asked_for_more_than_it_has() {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).unwrap();
    let wanted = portray::required_limits(&adapter);
    assert!(wanted.check_limits(&adapter.limits()));
    assert_eq!(wanted.max_buffer_size, adapter.limits().max_buffer_size);
}

#[test]
fn an_engine_and_a_model_may_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<portray::Engine>();
    crosses::<portray::Model>();
}
