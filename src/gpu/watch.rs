//! Error scopes of a job: errors that wgpu reports for its calls, caught before the device's own handler.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::Gpu;
use crate::error::Result;

/// Result of an error scope: known at once natively, later in a browser.
type Caught = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

/// Collects the errors of calls on a device.
pub(crate) struct Watch {
    gpu: Gpu,
    closed: Vec<Caught>,
}

impl Watch {
    pub fn new(gpu: &Gpu) -> Watch {
        Watch { gpu: gpu.clone(), closed: Vec::new() }
    }

    /// Runs `calls` inside error scopes, which belong to this thread.
    pub fn during<T>(&mut self, calls: impl FnOnce() -> T) -> T {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        let scopes = [Validation, OutOfMemory, Internal].map(|filter| self.gpu.device.push_error_scope(filter));
        let done = calls();
        // The last opened is the first to close.
        self.closed.extend(scopes.into_iter().rev().map(|scope| Box::pin(scope.pop()) as Caught));
        done
    }

    /// Returns the device's loss, or the first error known so far.
    pub fn check(&mut self) -> Result<()> {
        let found = self.poll(&mut Context::from_waker(Waker::noop()));
        self.outcome(found)
    }

    /// Waits for every scope, then returns the first error.
    async fn finish(&mut self) -> Result<()> {
        let found = self.first_error().await;
        self.outcome(found)
    }

    /// Returns `made` unless one of the calls so far was an error.
    pub async fn finish_with<T>(mut self, made: T) -> Result<T> {
        match self.first_error().await {
            None => Ok(made),
            Some(error) => Err(self.gpu.error(&error.to_string())),
        }
    }

    fn outcome(&self, found: Option<wgpu::Error>) -> Result<()> {
        // Calls on a lost device are errors of their own, which say less.
        self.gpu.check()?;
        found.map_or(Ok(()), |error| Err(self.gpu.error(&error.to_string())))
    }

    /// Waits for every scope and takes the first error.
    async fn first_error(&mut self) -> Option<wgpu::Error> {
        std::future::poll_fn(|cx| {
            let found = self.poll(cx);
            if found.is_some() || self.closed.is_empty() { Poll::Ready(found) } else { Poll::Pending }
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Option<wgpu::Error> {
        let mut found = None;
        self.closed.retain_mut(|caught| match caught.as_mut().poll(cx) {
            Poll::Ready(error) => {
                found = found.take().or(error);
                false
            }
            Poll::Pending => true,
        });
        found
    }
}

impl Gpu {
    /// Runs a job in error scopes. On a host's device, errors of its calls become its error and the host's handler sees
    /// none of them. On our own device the handler is ours; a job that a host drives is watched step by step.
    pub(crate) async fn in_error_scopes<T>(&self, job: impl Future<Output = Result<T>>) -> Result<T> {
        if self.is_ours() || self.turn.is_some() {
            return job.await;
        }
        let (mut watch, mut job) = (Watch::new(self), pin!(job));
        let done = std::future::poll_fn(|cx| {
            let polled = watch.during(|| job.as_mut().poll(cx));
            match watch.check() {
                // What wgpu reports is the cause of what the job says.
                Err(e) => Poll::Ready(Err(e)),
                Ok(()) => polled,
            }
        })
        .await?;
        watch.finish().await?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gpu::{DeviceOptions, Kernel, Template};

    fn kernel(name: &'static str, text: &'static str) -> Kernel {
        let (values, bindings, fields, table) = Default::default();
        Kernel { template: Template::new(name, text), values, bindings, fields, table, trapped: false }
    }

    /// The same adapter's device, opened by us and by a host whose handler panics.
    fn devices() -> [Gpu; 2] {
        let ours = pollster::block_on(Gpu::request(&DeviceOptions::default())).unwrap();
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let adapter = pollster::block_on(super::super::choose_adapter(&instance, None)).unwrap();
        let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).unwrap();
        device.on_uncaptured_error(Arc::new(|e| panic!("the host heard {e}")));
        [ours, Gpu::from_device(adapter.get_info(), device, queue, false)]
    }

    #[test]
    fn a_kernel_that_does_not_compile_is_named_each_time_and_others_are_kept() {
        let good = kernel("good", "@compute @workgroup_size(1) fn main() { _ = p.first_workgroup_; }");
        let bad = kernel("unfinished", "@compute @workgroup_size(1) fn main() {");
        for gpu in devices() {
            for _ in 0..2 {
                let Err(error) = pollster::block_on(gpu.compile(&[&good, &bad])) else { panic!("it compiled") };
                assert!(error.to_string().contains("kernel unfinished"), "{error}");
            }
            assert!(pollster::block_on(gpu.compile(&[&good])).is_ok());
        }
    }

    #[test]
    fn what_a_job_does_wrong_on_a_hosts_device_is_its_error() {
        let [_, gpu] = devices();
        let too_large = || gpu.buffer("too large", 1 << 40, wgpu::BufferUsages::STORAGE);
        let job = async {
            let _buffer = too_large();
            Ok(())
        };
        let error = pollster::block_on(gpu.in_error_scopes(job)).unwrap_err();
        assert!(error.to_string().contains(&gpu.info().name), "{error}");
        // Its own errors are passed on, and results too.
        let own = async { Err::<(), _>(crate::Error::argument("wrong")) };
        assert_eq!(pollster::block_on(gpu.in_error_scopes(own)).unwrap_err().to_string(), "wrong");
        assert_eq!(pollster::block_on(gpu.in_error_scopes(async { Ok(7) })).unwrap(), 7);
    }
}
