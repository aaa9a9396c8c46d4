// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the pvmemctl core, against a device that is made up.
 *
 * struct fake is a device of wire protocol 1.0, or 1.1 where its answer to INFO says
 * so: it follows the specification, not the driver, acts inside the write to its
 * command register, and can be told to misbehave.  It writes down every doorbell
 * and does nothing to any memory but the driver's buffers, so the addresses that
 * tests ask for need not exist.
 *
 * Two things depend on the kernel that runs this:
 *
 *  - Without CONFIG_PREEMPT_COUNT memctl_vmm_call() takes every context for an
 *    atomic one.  Where waiting matters, tests use pvmemctl_call().
 *  - What the driver undoes when it leaves follows the System RAM resources.  UML
 *    has none, so the suite makes some up there.
 */

#include <kunit/device.h>
#include <kunit/resource.h>
#include <kunit/static_stub.h>
#include <kunit/test.h>

#include <linux/cleanup.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/debug_locks.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/irqflags.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/panic_notifier.h>
#include <linux/pfn.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sizes.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/unaligned.h>
#include <linux/wait.h>

#include "../pvmemctl.h"

/* The ABI, a second time: a slip in the header must not go unnoticed */
static_assert(sizeof(struct memctl_buf) == 32);
static_assert(offsetof(struct memctl_buf, call.length) == 16);
static_assert(offsetof(struct memctl_buf, ret.ret_code) == 4);
static_assert(offsetof(struct memctl_buf, ret.ret_value) == 8);
static_assert(offsetof(struct memctl_buf, ret.arg0) == 16);
static_assert(sizeof(struct memctl_vmm_range) == 16);
static_assert(MEMCTL_CMD_RESET == 0x060FE6D2);
static_assert(MEMCTL_CMD_REGISTER == 0x0E359539);
static_assert(MEMCTL_CMD_READY == 0x0CA8D227);
static_assert(MEMCTL_CMD_DISCONNECT == 0x030F5DA0);
static_assert(MEMCTL_ANSWER_ACK == 0x03CF5196);
static_assert(MEMCTL_ANSWER_ERROR == 0x01FBA249);

#define WIRE_SIZE	32
#define ENTRY_SIZE	16

/* What no host exceeds */
#define ENTRIES		256

/* What one doorbell of this driver carries at most */
#define STEP		SZ_1G

/* How often this driver tries before it gives up */
#define ATTEMPTS	3

/* How often in a row this driver lets a host stop before it did anything */
#define STALLS		64

/* Some address and page of a host */
#define PAGE		((u64)SZ_4K)
#define ADDR		((u64)SZ_1G)

/* RAM, as far as this kernel knows; without it some tests skip */
static u64 ram_addr = ADDR;

/* How long to wait for what comes from a work item */
#define PATIENCE	(10 * HZ)

/* A doorbell that reached the host, or before it an entry of its table */
struct doorbell {
	u64 func;
	u64 addr;
	u64 length;
	u64 arg;
	bool done;			/* answered, with success */
	u64 did;			/* bytes, of a range */
};

enum fake_state { FAKE_BROKEN, FAKE_REGISTERING, FAKE_READY };

struct fake {
	struct device *dev;
	struct pvmemctl *pm;

	/* Protects what follows: doorbells come from several CPUs at once */
	raw_spinlock_t lock;
	enum fake_state state;
	u64 payload;
	u32 answer;
	unsigned int nr_connections;
	u64 *buffers;			/* physical, nr_cpu_ids of them */
	int *owners;			/* which CPU used them */

	/* How it misbehaves; as all zeros but info, it does not */
	bool dead;			/* nothing behind the registers */
	u32 refused_command;		/* answers ERROR */
	u32 mute_command;		/* has no effect, the answer register reads 0 */
	u32 connection_mask;		/* bits missing in connection numbers */
	u64 silent;			/* bit mask of functions that are not answered */
	struct memctl_vmm_ret info;	/* answer to INFO */
	struct memctl_vmm_ret query;	/* answer to QUERY */
	struct memctl_vmm_ret ret;	/* answer to functions of ret_mask */
	u64 ret_mask;
	u64 border[2];			/* a request must not straddle these */
	u64 bad;			/* a request must not contain this */
	u64 longest;			/* a request must not be longer, if not 0 */
	u64 most;			/* bytes of a doorbell, if not 0 */
	u64 most_claim;			/* what it says instead, if not 0 */
	u64 stop_after;			/* it stops after that many bytes, if not 0 */
	unsigned int stalls;		/* so often it stops before it begins */
	u64 fail_at;			/* a request fails there with ... */
	u32 fail_errno;			/* ... if not 0 */
	u64 granule;			/* what a request must be aligned to, if not 0 */
	unsigned int reset_delay;	/* milliseconds */
	void (*hook)(struct fake *fake, u32 command);	/* before it acts */
	void *hook_data;

	/* What it saw */
	unsigned int writes;		/* of either register */
	unsigned int resets;
	unsigned int disconnects;
	unsigned int rung;		/* doorbells, also such as nobody answers */
	unsigned int errors;		/* rules of the medium that were broken */
	unsigned int nr_commands;
	u32 *commands;			/* command register, the first max_commands */
	unsigned int max_commands;
	u8 request[WIRE_SIZE];		/* the last one, as it was in the buffer */
	u8 table[ENTRIES * ENTRY_SIZE];	/* likewise */
	u64 heaviest;			/* most bytes of a doorbell that it took */
	u64 *tables;			/* physical, by CPU */
	unsigned int nr_log;
	struct doorbell log[1024];
};

/*
 * The device
 */

static struct memctl_vmm_ret fake_refuse(const struct doorbell *d, u32 err)
{
	return (struct memctl_vmm_ret) { .ret_errno = err, .ret_code = d->func };
}

static bool fake_straddles(const struct doorbell *d, u64 border)
{
	return d->addr < border && border < d->addr + d->length;
}

static bool fake_is_1_1(struct fake *fake)
{
	return fake->info.arg1 >= 1;
}

static void fake_log(struct fake *fake, const struct doorbell *d)
{
	if (fake->nr_log < ARRAY_SIZE(fake->log))
		fake->log[fake->nr_log] = *d;
	fake->nr_log++;
}

/* One range; @left is how many bytes it may do before it stops */
static struct memctl_vmm_ret fake_range(struct fake *fake, struct doorbell *d, u64 *left)
{
	const u64 page = fake->info.ret_value;
	u32 err = 0;
	int i;

	if (!d->func || d->func > (fake_is_1_1(fake) ? 38 : 14) || (d->func > 14 && d->func < 33))
		return fake_refuse(d, EOPNOTSUPP);
	if (!d->length || !IS_ALIGNED(d->addr | d->length, page) ||
	    d->addr + d->length < d->addr)
		return fake_refuse(d, EINVAL);
	if (fake->granule && !IS_ALIGNED(d->addr | d->length, fake->granule))
		return (struct memctl_vmm_ret) { EINVAL, d->func, fake->granule };
	for (i = 0; i < ARRAY_SIZE(fake->border); i++)
		if (fake->border[i] && fake_straddles(d, fake->border[i]))
			return fake_refuse(d, EINVAL);
	if (fake->longest && d->length > fake->longest)
		return fake_refuse(d, EINVAL);
	if (fake->bad && d->addr <= fake->bad && fake->bad < d->addr + d->length)
		return fake_refuse(d, EINVAL);
	if (fake->ret_mask & BIT_ULL(d->func)) {
		if (!fake->ret.ret_errno && !fake->ret.ret_code)
			d->did = d->length;
		return fake->ret;
	}

	d->did = d->length;
	if (fake->fail_errno && d->addr <= fake->fail_at && fake->fail_at < d->addr + d->length) {
		d->did = fake->fail_at - d->addr;
		err = fake->fail_errno;
	}
	if (d->did > *left || !*left) {
		d->did = *left;
		err = EAGAIN;
	}
	*left -= d->did;
	if (!err)
		return (struct memctl_vmm_ret) { };
	return (struct memctl_vmm_ret) { err, 0, fake_is_1_1(fake) ? d->did : 0 };
}

static struct memctl_vmm_ret fake_too_big(struct fake *fake, const struct doorbell *d)
{
	return (struct memctl_vmm_ret) { E2BIG, d->func, fake->most_claim ?: fake->most };
}

static struct memctl_vmm_ret fake_vector(struct fake *fake, struct doorbell *d, u64 *left)
{
	const u8 *table = phys_to_virt(d->addr);
	struct memctl_vmm_ret ret = { };
	bool tried = false;
	u64 sum = 0;
	unsigned int i;

	if (!fake->query.arg0 || d->arg == 0 || d->arg == 6 || d->arg == 32 || d->arg == 39)
		return fake_refuse(d, EOPNOTSUPP);
	if (!d->length || d->length > min(fake->query.arg0, ENTRIES) ||
	    !IS_ALIGNED(d->addr, ENTRY_SIZE))
		return fake_refuse(d, EINVAL);
	if (!fake->tables[raw_smp_processor_id()])
		fake->tables[raw_smp_processor_id()] = d->addr;
	if (fake->tables[raw_smp_processor_id()] != d->addr)
		fake->errors++;

	/* Once, before use */
	memcpy(fake->table, table, d->length * ENTRY_SIZE);
	for (i = 0; i < d->length; i++)
		sum += get_unaligned_le64(fake->table + i * ENTRY_SIZE + 8);
	if (fake->most && sum > fake->most)
		return fake_too_big(fake, d);
	fake->heaviest = max(fake->heaviest, sum);

	for (i = 0; i < d->length; i++) {
		struct doorbell e = {
			.func	= d->arg,
			.addr	= get_unaligned_le64(fake->table + i * ENTRY_SIZE),
			.length	= get_unaligned_le64(fake->table + i * ENTRY_SIZE + 8),
		};

		ret = fake_range(fake, &e, left);
		e.done = !ret.ret_errno && !ret.ret_code;
		fake_log(fake, &e);
		if (!e.done) {
			tried |= !ret.ret_code;
			return (struct memctl_vmm_ret) {
				.ret_errno = ret.ret_errno,
				.ret_code = tried ? 0 : d->func,
				.ret_value = i,
				.arg1 = ret.ret_code ? 0 : e.did,
			};
		}
		tried = true;
	}
	return (struct memctl_vmm_ret) { .ret_value = i };
}

static struct memctl_vmm_ret fake_act(struct fake *fake, struct doorbell *d)
{
	u64 left = fake->stop_after ?: ~0ULL;

	if (d->func == 0)
		return fake->info;
	if (fake_is_1_1(fake) && d->func == 32)
		return fake->query;
	if (fake->stalls && d->func != 32) {
		fake->stalls--;
		left = 0;
	}
	if (fake_is_1_1(fake) && d->func == 39)
		return fake->ret_mask & BIT_ULL(39) ? fake->ret : fake_vector(fake, d, &left);
	if (fake->most && d->length > fake->most)
		return fake_too_big(fake, d);
	fake->heaviest = max(fake->heaviest, d->length);
	return fake_range(fake, d, &left);
}

static void fake_doorbell(struct fake *fake, u32 connection)
{
	const u32 index = connection - MEMCTL_CONNECTION_BASE;
	struct memctl_vmm_ret ret;
	struct doorbell d;
	u8 *wire;

	fake->rung++;
	if (fake->state != FAKE_READY || index >= fake->nr_connections)
		return;

	/* A buffer belongs to one CPU */
	if (fake->owners[index] < 0)
		fake->owners[index] = raw_smp_processor_id();
	if (fake->owners[index] != raw_smp_processor_id())
		fake->errors++;

	wire = phys_to_virt(fake->buffers[index]);
	memcpy(fake->request, wire, WIRE_SIZE);
	d = (struct doorbell) {
		.func	= get_unaligned_le64(wire),
		.addr	= get_unaligned_le64(wire + 8),
		.length	= get_unaligned_le64(wire + 16),
		.arg	= get_unaligned_le64(wire + 24),
	};
	ret = fake_act(fake, &d);
	if (d.func >= 64 || !(fake->silent & BIT_ULL(d.func))) {
		put_unaligned_le32(ret.ret_errno, wire);
		put_unaligned_le32(ret.ret_code, wire + 4);
		put_unaligned_le64(ret.ret_value, wire + 8);
		put_unaligned_le64(ret.arg0, wire + 16);
		put_unaligned_le64(ret.arg1, wire + 24);
		d.done = !ret.ret_errno && !ret.ret_code && ret.arg0 != d.length;
	} else {
		d.did = 0;
	}
	fake_log(fake, &d);
}

static bool fake_register_buffer(struct fake *fake)
{
	if (fake->state != FAKE_REGISTERING || fake->nr_connections == nr_cpu_ids ||
	    !IS_ALIGNED(fake->payload, WIRE_SIZE))
		return false;
	fake->buffers[fake->nr_connections] = fake->payload;
	fake->owners[fake->nr_connections] = -1;
	fake->payload = (MEMCTL_CONNECTION_BASE + fake->nr_connections) & ~fake->connection_mask;
	fake->nr_connections++;
	return true;
}

static bool fake_command(struct fake *fake, u32 command)
{
	if (command == fake->refused_command)
		return false;
	switch (command) {
	case MEMCTL_CMD_RESET:
		fake->nr_connections = 0;
		fake->state = FAKE_REGISTERING;
		return true;
	case MEMCTL_CMD_REGISTER:
		return fake_register_buffer(fake);
	case MEMCTL_CMD_READY:
		if (fake->state != FAKE_REGISTERING)
			return false;
		fake->state = FAKE_READY;
		return true;
	default:
		return false;
	}
}

static void fake_write_command(void *transport, u32 command)
{
	const bool irqs_on = !irqs_disabled();
	struct fake *fake = transport;

	if (fake->hook)
		fake->hook(fake, command);
	if (command == MEMCTL_CMD_RESET && fake->reset_delay)
		mdelay(fake->reset_delay);

	guard(raw_spinlock_irqsave)(&fake->lock);
	fake->writes++;
	if (fake->nr_commands < fake->max_commands)
		fake->commands[fake->nr_commands] = command;
	fake->nr_commands++;
	fake->resets += command == MEMCTL_CMD_RESET;
	fake->disconnects += command == MEMCTL_CMD_DISCONNECT;
	if (fake->dead)
		return;

	switch (command) {
	case MEMCTL_CMD_RESET:
	case MEMCTL_CMD_REGISTER:
	case MEMCTL_CMD_READY:
	case MEMCTL_CMD_DISCONNECT:
		if (command == fake->mute_command) {
			fake->answer = 0;
		} else if (fake_command(fake, command)) {
			fake->answer = MEMCTL_ANSWER_ACK;
		} else {
			fake->answer = MEMCTL_ANSWER_ERROR;
			fake->state = FAKE_BROKEN;
		}
		break;
	default:
		/* Nobody may come in between, and no command may be rung by mistake */
		if (irqs_on || !(command & MEMCTL_CONNECTION_BASE))
			fake->errors++;
		fake_doorbell(fake, command);
	}
}

static void fake_write_payload(void *transport, u64 payload)
{
	struct fake *fake = transport;

	guard(raw_spinlock_irqsave)(&fake->lock);
	fake->writes++;
	if (!fake->dead)
		fake->payload = payload;
}

/* Registers with nothing behind them read as all ones */
static u32 fake_read_payload(void *transport)
{
	struct fake *fake = transport;

	guard(raw_spinlock_irqsave)(&fake->lock);
	return fake->dead ? ~0 : lower_32_bits(fake->payload);
}

static u32 fake_read_answer(void *transport)
{
	struct fake *fake = transport;

	guard(raw_spinlock_irqsave)(&fake->lock);
	return fake->dead ? ~0 : fake->answer;
}

static const struct pvmemctl_ops fake_ops = {
	.write_payload	= fake_write_payload,
	.read_payload	= fake_read_payload,
	.write_command	= fake_write_command,
	.read_answer	= fake_read_answer,
};

/* As when the VM was restored from a snapshot: the process is new, the guest not */
static void fake_forget(struct fake *fake)
{
	guard(raw_spinlock_irqsave)(&fake->lock);
	fake->state = FAKE_BROKEN;
	fake->nr_connections = 0;
	fake->answer = MEMCTL_ANSWER_ERROR;
}

static void fake_clear_log(struct fake *fake)
{
	guard(raw_spinlock_irqsave)(&fake->lock);
	fake->nr_log = 0;
	fake->rung = 0;
	fake->heaviest = 0;
}

/* How often the host did @func */
static unsigned int fake_did(struct fake *fake, u64 func)
{
	unsigned int i, n = 0;

	for (i = 0; i < min(fake->nr_log, ARRAY_SIZE(fake->log)); i++)
		n += fake->log[i].done && fake->log[i].func == func;
	return n;
}

/* Are the buffers given back?  Soon after, pages may have found a new user. */
static bool fake_buffers_freed(struct fake *fake)
{
	return !page_count(virt_to_page(phys_to_virt(fake->buffers[0])));
}

/*
 * Its life
 */

static int fake_register(struct fake *fake)
{
	struct pvmemctl *pm = pvmemctl_register(fake->dev, &fake_ops, fake);

	if (IS_ERR(pm))
		return PTR_ERR(pm);
	fake->pm = pm;
	return 0;
}

static void fake_unregister(void *data)
{
	struct fake *fake = data;

	if (fake->pm)
		pvmemctl_unregister(fake->pm);
	fake->pm = NULL;
}

/* This machine may be a confidential guest, but the fake does not mind */
static const char *never_refuse(void)
{
	return NULL;
}

static struct fake *fake_new(struct kunit *test, const char *name)
{
	struct fake *fake = kunit_kzalloc(test, sizeof(*fake), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, fake);
	raw_spin_lock_init(&fake->lock);
	fake->answer = MEMCTL_ANSWER_ERROR;
	fake->info = (struct memctl_vmm_ret) { .ret_value = PAGE, .arg0 = 1 };
	fake->query = (struct memctl_vmm_ret) {
		.ret_value = GENMASK_ULL(39, 32) | GENMASK_ULL(14, 0),
		.arg0 = ENTRIES,
		.arg1 = SZ_2M,
	};

	fake->buffers = kunit_kcalloc(test, nr_cpu_ids, sizeof(*fake->buffers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fake->buffers);
	fake->tables = kunit_kcalloc(test, nr_cpu_ids, sizeof(*fake->tables), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fake->tables);
	fake->owners = kunit_kcalloc(test, nr_cpu_ids, sizeof(*fake->owners), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fake->owners);
	fake->max_commands = nr_cpu_ids + 16;
	fake->commands = kunit_kcalloc(test, fake->max_commands, sizeof(*fake->commands),
				       GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, fake->commands);

	fake->dev = kunit_device_register(test, name);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, fake->dev);
	/* It leaves when the test ends, if not before */
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, fake_unregister, fake));
	kunit_activate_static_stub(test, pvmemctl_refusal, never_refuse);
	return fake;
}

static void fake_start(struct kunit *test, struct fake *fake)
{
	KUNIT_ASSERT_EQ(test, 0, fake_register(fake));
}

/* Kernel callers reach the fake only where this machine has no such device */
static void need_provider_slot(struct kunit *test)
{
	struct memctl_buf buf;

	/* An empty range never reaches any device */
	if (memctl_vmm_call(MEMCTL_DONTNEED, 0, 0, 0, &buf) != -ENODEV)
		kunit_skip(test, "a pvmemctl device of this machine serves kernel callers");
}

/* A device that serves its own users, and maybe kernel callers */
static struct fake *fake_device(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");

	fake_start(test, fake);
	return fake;
}

/* A device that serves kernel callers */
static struct fake *fake_provider(struct kunit *test)
{
	need_provider_slot(test);
	return fake_device(test);
}

/* The same, of protocol 1.1 */
static struct fake *fake_device_1_1(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");

	fake->info.arg1 = 1;
	fake_start(test, fake);
	fake_clear_log(fake);
	return fake;
}

static struct fake *fake_provider_1_1(struct kunit *test)
{
	need_provider_slot(test);
	return fake_device_1_1(test);
}

static int fake_call(struct fake *fake, u64 func, u64 addr, u64 length, struct memctl_buf *buf)
{
	buf->call = (struct memctl_vmm_call) {
		.func_code = func, .addr = addr, .length = length,
	};
	return pvmemctl_call(fake->pm, buf);
}

/* One page, as the character device asks; 0 when the host did it */
static int fake_ask(struct fake *fake, u64 func)
{
	struct memctl_buf buf;

	return fake_call(fake, func, ram_addr, PAGE, &buf) ?: memctl_ret_errno(&buf);
}

/* One page, as kernel callers ask; 0 when the host did it */
static long kernel_ask(u64 func)
{
	struct memctl_buf buf;

	return memctl_vmm_call(func, ADDR, PAGE, 0, &buf) ?: memctl_ret_errno(&buf);
}

/* The same, where nobody may sleep */
static long kernel_ask_atomic(u64 func)
{
	guard(irqsave)();
	return kernel_ask(func);
}

/*
 * Notifiers
 */

struct watcher {
	struct notifier_block nb;
	wait_queue_head_t wait;
	atomic_t seen[PVMEMCTL_RESUMED + 1];
	void (*then)(struct watcher *w, unsigned long event);
	struct fake *fake;
	long ret;
};

static int watcher_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct watcher *w = container_of(nb, struct watcher, nb);

	if (w->then)
		w->then(w, event);
	if (event < ARRAY_SIZE(w->seen))
		atomic_inc(&w->seen[event]);
	wake_up(&w->wait);
	return NOTIFY_OK;
}

static void watcher_leave(void *data)
{
	struct watcher *w = data;

	pvmemctl_unregister_notifier(&w->nb);
}

static struct watcher *watcher_new(struct kunit *test)
{
	struct watcher *w = kunit_kzalloc(test, sizeof(*w), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, w);
	init_waitqueue_head(&w->wait);
	w->nb.notifier_call = watcher_event;
	return w;
}

static void watcher_start(struct kunit *test, struct watcher *w)
{
	KUNIT_ASSERT_EQ(test, 0, pvmemctl_register_notifier(&w->nb));
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, watcher_leave, w));
}

static struct watcher *watch(struct kunit *test)
{
	struct watcher *w = watcher_new(test);

	watcher_start(test, w);
	return w;
}

static int watcher_saw(struct watcher *w, enum pvmemctl_event event)
{
	return atomic_read(&w->seen[event]);
}

static bool watcher_wait(struct watcher *w, enum pvmemctl_event event)
{
	return wait_event_timeout(w->wait, watcher_saw(w, event), PATIENCE);
}

/*
 * Threads of our own
 */

struct job {
	int (*fn)(struct job *job);
	struct fake *fake;
	struct completion *start;
	struct completion done;
	struct task_struct *task;
	u64 addr;
	int ret;
};

static int job_thread(void *data)
{
	struct job *job = data;

	if (job->start)
		wait_for_completion(job->start);
	job->ret = job->fn(job);
	complete(&job->done);
	return 0;
}

static int job_begin(struct job *job)
{
	struct task_struct *task;

	init_completion(&job->done);
	task = kthread_create(job_thread, job, "pvmemctl-kunit");
	if (IS_ERR(task))
		return PTR_ERR(task);
	job->task = get_task_struct(task);
	wake_up_process(task);
	return 0;
}

static void job_end(struct job *job)
{
	wait_for_completion(&job->done);
	kthread_stop_put(job->task);
}

/* Run @fn in a thread that somebody has killed already */
static int job_run_killed(struct kunit *test, struct fake *fake, u64 addr,
			  int (*fn)(struct job *job))
{
	struct job job = { .fn = fn, .fake = fake, .addr = addr };

	KUNIT_ASSERT_EQ(test, 0, job_begin(&job));
	job_end(&job);
	return job.ret;
}

static void job_kill_self(void)
{
	allow_signal(SIGKILL);
	send_sig(SIGKILL, current, 1);
}

/*
 * RAM
 */

static struct resource made_up_ram[2];

static int ram_walk(void *data, int (*fn)(unsigned long pfn, unsigned long nr, void *data))
{
	return walk_system_ram_range(0, ULONG_MAX, data, fn);
}

static int ram_any(unsigned long pfn, unsigned long nr, void *data)
{
	return 1;
}

static void ram_unmake(void *unused)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(made_up_ram); i++)
		if (made_up_ram[i].parent)
			remove_resource(&made_up_ram[i]);
}

/* Where nothing says where RAM is, nobody is misled by some more */
static int ram_make_up(void)
{
	static const struct {
		u64 start;
		u64 length;
	} ranges[] = {
		/* Several steps, and an end that is no multiple of 64 KiB */
		{ SZ_1T, 3ULL * SZ_1G + 5 * SZ_4K },
		{ SZ_2T, SZ_1M },
	};
	int i, ret;

	if (!IS_ENABLED(CONFIG_PHYS_ADDR_T_64BIT) || ram_walk(NULL, ram_any) == 1)
		return 0;
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		made_up_ram[i] = DEFINE_RES_NAMED(ranges[i].start, ranges[i].length, "System RAM",
						  IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY);
		ret = insert_resource(&iomem_resource, &made_up_ram[i]);
		if (ret) {
			ram_unmake(NULL);
			return ret;
		}
	}
	return 0;
}

static void need_made_up_ram(struct kunit *test)
{
	if (!made_up_ram[0].parent)
		kunit_skip(test, "needs a machine that tells nothing of its RAM");
}

struct ram_range {
	u64 addr;
	u64 length;
};

static int ram_longer(unsigned long pfn, unsigned long nr, void *data)
{
	struct ram_range *range = data;

	if (PFN_PHYS(nr) < range->length)
		return 0;
	range->addr = PFN_PHYS(pfn);
	return 1;
}

/* Any RAM of that length */
static u64 need_ram(struct kunit *test, u64 length)
{
	struct ram_range range = { .length = length };

	if (ram_walk(&range, ram_longer) != 1)
		kunit_skip(test, "no System RAM resource of 0x%llx bytes", length);
	return range.addr;
}

/*
 * Expectations
 */

/* The host did @func to all of the range, once, in order, and in possible steps */
static void expect_in_order(struct kunit *test, struct fake *fake, u64 func, u64 addr, u64 length)
{
	u64 next = addr;
	unsigned int i;

	KUNIT_ASSERT_LE(test, fake->nr_log, ARRAY_SIZE(fake->log));
	for (i = 0; i < fake->nr_log; i++) {
		struct doorbell *d = &fake->log[i];

		KUNIT_EXPECT_LE(test, d->length, STEP);
		if (!d->did || d->func != func)
			continue;
		KUNIT_EXPECT_EQ(test, d->addr, next);
		next = d->addr + d->did;
	}
	KUNIT_EXPECT_EQ(test, next, addr + length);
}

static int ram_sum(unsigned long pfn, unsigned long nr, void *data)
{
	*(u64 *)data += PFN_PHYS(nr);
	return 0;
}

/* Everything that was asked is in the log */
static void need_whole_log(struct kunit *test, struct fake *fake)
{
	u64 sum = 0;

	ram_walk(&sum, ram_sum);
	if (fake->nr_log > ARRAY_SIZE(fake->log) && sum > 32ULL * SZ_1G)
		kunit_skip(test, "too much RAM to follow what is done to it");
	KUNIT_ASSERT_LE(test, fake->nr_log, ARRAY_SIZE(fake->log));
}

struct undone {
	struct fake *fake;
	u64 func;
	u64 bad;			/* in a step that may be left out, or 0 */
	u64 missing;			/* first address that was left out */
};

static int undone_range(unsigned long pfn, unsigned long nr, void *data)
{
	struct undone *u = data;
	struct fake *fake = u->fake;
	const u64 page = fake->info.ret_value;
	u64 addr = round_up(PFN_PHYS(pfn), page);
	const u64 end = round_down(PFN_PHYS(pfn) + PFN_PHYS(nr), page);
	unsigned int i;

again:
	if (addr >= end)
		return 0;
	for (i = 0; i < fake->nr_log; i++) {
		struct doorbell *d = &fake->log[i];

		if (d->done && d->func == u->func && d->addr <= addr &&
		    addr < d->addr + d->length) {
			addr = d->addr + d->length;
			goto again;
		}
	}
	if (u->bad && addr <= u->bad && u->bad < addr + STEP) {
		addr += STEP;
		goto again;
	}
	u->missing = addr;
	return 1;
}

/* The host did @func to all RAM, but for what is around a page it did not like */
static void expect_undone_but(struct kunit *test, struct fake *fake, u64 func, u64 bad)
{
	struct undone u = { .fake = fake, .func = func, .bad = bad };

	need_whole_log(test, fake);
	KUNIT_EXPECT_NE_MSG(test, 1, ram_walk(&u, undone_range),
			    "function %llu not undone at 0x%llx", func, u.missing);
}

static void expect_undone(struct kunit *test, struct fake *fake, u64 func)
{
	expect_undone_but(test, fake, func, 0);
}

/*
 * Connecting
 */

static void handshake_registers_every_cpu(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	const unsigned int cpus = num_possible_cpus();
	const u32 *command = fake->commands;
	unsigned int i, j;

	KUNIT_ASSERT_EQ(test, fake->nr_commands, cpus + 3);
	KUNIT_EXPECT_EQ(test, *command++, MEMCTL_CMD_RESET);
	for (i = 0; i < cpus; i++)
		KUNIT_EXPECT_EQ(test, *command++, MEMCTL_CMD_REGISTER);
	KUNIT_EXPECT_EQ(test, *command++, MEMCTL_CMD_READY);
	KUNIT_EXPECT_GE(test, *command++, MEMCTL_CONNECTION_BASE);
	KUNIT_ASSERT_EQ(test, fake->nr_connections, cpus);

	/* INFO, with a length that no answer has in its place */
	KUNIT_ASSERT_EQ(test, fake->nr_log, 1);
	KUNIT_EXPECT_EQ(test, fake->log[0].func, 0);
	KUNIT_EXPECT_EQ(test, fake->log[0].length, ~0ULL);

	for (i = 0; i < cpus; i++) {
		const u64 buffer = fake->buffers[i];

		KUNIT_EXPECT_TRUE(test, IS_ALIGNED(buffer, WIRE_SIZE));
		KUNIT_EXPECT_LE(test, buffer % SZ_4K + WIRE_SIZE, SZ_4K);
		for (j = 0; j < i; j++)
			KUNIT_EXPECT_GE(test, abs_diff(buffer, fake->buffers[j]), WIRE_SIZE);
	}

	fake_unregister(fake);
	KUNIT_ASSERT_EQ(test, fake->nr_commands, cpus + 4);
	KUNIT_EXPECT_EQ(test, *command, MEMCTL_CMD_DISCONNECT);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

static void unregister_frees_the_buffers(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");
	int i;

	for (i = 0; i < 32; i++) {
		KUNIT_ASSERT_EQ(test, 0, fake_register(fake));
		fake_unregister(fake);
		if (fake_buffers_freed(fake))
			return;
	}
	KUNIT_FAIL(test, "buffers are never freed");
}

static const struct bad_host {
	const char *desc;
	int err;
	bool dead;
	u32 mute_command;
	u32 refused_command;
	u32 connection_mask;
	u64 silent;
	struct memctl_vmm_ret info;	/* where err is -EPROTO */
} bad_hosts[] = {
	{ "nothing behind the BAR",	-EIO, .dead = true },
	{ "RESET not acknowledged",	-EIO, .mute_command = MEMCTL_CMD_RESET },
	{ "RESET refused",		-EIO, .refused_command = MEMCTL_CMD_RESET },
	{ "REGISTER not acknowledged",	-EIO, .mute_command = MEMCTL_CMD_REGISTER },
	{ "REGISTER refused",		-EIO, .refused_command = MEMCTL_CMD_REGISTER },
	{ "connections like commands",	-EIO, .connection_mask = MEMCTL_CONNECTION_BASE },
	{ "READY not acknowledged",	-EIO, .mute_command = MEMCTL_CMD_READY },
	{ "READY refused",		-EIO, .refused_command = MEMCTL_CMD_READY },
	{ "INFO not answered",		-EIO, .silent = BIT(MEMCTL_INFO) },
	{ "INFO fails",		-EPROTO, .info = { EPERM, 0, PAGE, 1 } },
	{ "INFO has a code",	-EPROTO, .info = { 0, 1, PAGE, 1 } },
	{ "INFO is unknown",	-EPROTO, .info = { EOPNOTSUPP, 0 } },
	{ "major 0",		-EPROTO, .info = { 0, 0, PAGE, 0, 1 } },
	{ "major 2",		-EPROTO, .info = { 0, 0, PAGE, 2 } },
	{ "major 2^32 + 1",	-EPROTO, .info = { 0, 0, PAGE, BIT_ULL(32) | 1 } },
	{ "page size 0",	-EPROTO, .info = { 0, 0, 0, 1 } },
	{ "page size 2 KiB",	-EPROTO, .info = { 0, 0, SZ_2K, 1 } },
	{ "page size 3000",	-EPROTO, .info = { 0, 0, 3000, 1 } },
	{ "page size 12 KiB",	-EPROTO, .info = { 0, 0, 3 * SZ_4K, 1 } },
	{ "page size 1 TiB",	-EPROTO, .info = { 0, 0, SZ_1T, 1 } },
	{ "page size 2^63",	-EPROTO, .info = { 0, 0, BIT_ULL(63), 1 } },
};

KUNIT_ARRAY_PARAM_DESC(bad_host, bad_hosts, desc);

static void bad_host_is_turned_away(struct kunit *test)
{
	const struct bad_host *bad = test->param_value;
	struct fake *fake = fake_new(test, "pvmemctl-fake");
	const struct memctl_vmm_ret good = fake->info;
	int i;

	fake->dead = bad->dead;
	fake->mute_command = bad->mute_command;
	fake->refused_command = bad->refused_command;
	fake->connection_mask = bad->connection_mask;
	fake->silent = bad->silent;
	if (bad->err == -EPROTO)
		fake->info = bad->info;
	KUNIT_ASSERT_EQ(test, fake_register(fake), bad->err);
	KUNIT_EXPECT_EQ(test, fake->resets, bad->err == -EIO ? ATTEMPTS : 1);
	KUNIT_EXPECT_EQ(test, fake->disconnects, 1);
	if (fake->nr_commands <= fake->max_commands)
		KUNIT_EXPECT_EQ(test, fake->commands[fake->nr_commands - 1],
				MEMCTL_CMD_DISCONNECT);
	KUNIT_EXPECT_LE(test, fake->writes, ATTEMPTS * (2 * num_possible_cpus() + 3) + 1);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);

	if (fake->buffers[0]) {
		/* Another user of a freed page may be quicker than we, but not each time */
		for (i = 0; i < 32 && !fake_buffers_freed(fake); i++)
			KUNIT_ASSERT_EQ(test, fake_register(fake), bad->err);
		KUNIT_EXPECT_LT_MSG(test, i, 32, "buffers are never freed");
	}

	/* It left nothing behind that stops a better one */
	fake->dead = false;
	fake->mute_command = 0;
	fake->refused_command = 0;
	fake->connection_mask = 0;
	fake->silent = 0;
	fake->info = good;
	fake_start(test, fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_DONTNEED), 0);
}

static void bad_host_is_no_provider(struct kunit *test)
{
	struct fake *fake;
	struct watcher *w;

	need_provider_slot(test);
	fake = fake_new(test, "pvmemctl-fake");
	w = watch(test);
	fake->info.arg0 = 2;
	KUNIT_EXPECT_EQ(test, fake_register(fake), -EPROTO);
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_INFO), -ENODEV);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 0);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_LOST), 0);
}

static const char *always_refuse(void)
{
	return "KUnit says so";
}

static void refusal_touches_nothing(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");

	kunit_activate_static_stub(test, pvmemctl_refusal, always_refuse);
	KUNIT_EXPECT_EQ(test, fake_register(fake), -ENODEV);
	KUNIT_EXPECT_EQ(test, fake->writes, 0);
}

static void registers_without_system_ram(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");
	int ret;

	need_made_up_ram(test);
	ram_unmake(NULL);
	ret = fake_register(fake);
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, ram_make_up(), 0);
	KUNIT_EXPECT_EQ(test, ret, 0);
}

/*
 * Calls
 */

static const struct function {
	const char *desc;
	u64 func;
	u64 code;
} functions[] = {
	{ "INFO",		MEMCTL_INFO,			0 },
	{ "DONTNEED",		MEMCTL_DONTNEED,		1 },
	{ "REMOVE",		MEMCTL_REMOVE,			2 },
	{ "FREE",		MEMCTL_FREE,			3 },
	{ "PAGEOUT",		MEMCTL_PAGEOUT,			4 },
	{ "DONTDUMP",		MEMCTL_DONTDUMP,		5 },
	{ "SET_VMA_ANON_NAME",	MEMCTL_SET_VMA_ANON_NAME,	6 },
	{ "MLOCK",		MEMCTL_MLOCK,			7 },
	{ "MUNLOCK",		MEMCTL_MUNLOCK,			8 },
	{ "MPROTECT_NONE",	MEMCTL_MPROTECT_NONE,		9 },
	{ "MPROTECT_R",		MEMCTL_MPROTECT_R,		10 },
	{ "MPROTECT_W",		MEMCTL_MPROTECT_W,		11 },
	{ "MPROTECT_RW",	MEMCTL_MPROTECT_RW,		12 },
	{ "MERGEABLE",		MEMCTL_MERGEABLE,		13 },
	{ "UNMERGEABLE",	MEMCTL_UNMERGEABLE,		14 },
};

KUNIT_ARRAY_PARAM_DESC(function, functions, desc);

static void expect_request(struct kunit *test, struct fake *fake, u64 code, u64 addr, u64 length,
			   u64 arg)
{
	u8 wire[WIRE_SIZE];

	put_unaligned_le64(code, wire);
	put_unaligned_le64(addr, wire + 8);
	put_unaligned_le64(code == 0 || code == 32 ? ~0ULL : length, wire + 16);
	put_unaligned_le64(arg, wire + 24);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
	KUNIT_EXPECT_MEMEQ(test, fake->request, wire, WIRE_SIZE);
}

static void device_call_reaches_the_host(struct kunit *test)
{
	const struct function *f = test->param_value;
	struct fake *fake = fake_device(test);
	struct memctl_buf buf = {
		.call = { f->func, ram_addr, 0x3000, 0x1122334455667788 },
	};

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_request(test, fake, f->code, ram_addr, 0x3000, 0x1122334455667788);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

/* What a program does to memory that this kernel does not know, nobody would undo */
static void nothing_to_undo_outside_of_ram(struct kunit *test)
{
	static const u64 left[] = {
		MEMCTL_MLOCK, MEMCTL_MPROTECT_NONE, MEMCTL_MPROTECT_R, MEMCTL_MPROTECT_W,
	};
	const u64 addr = 0x123456789000;
	struct fake *fake = fake_device(test);
	struct memctl_buf buf;
	int i;

	fake_clear_log(fake);
	for (i = 0; i < ARRAY_SIZE(left); i++)
		KUNIT_EXPECT_EQ(test, fake_call(fake, left[i], addr, PAGE, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_DONTNEED, addr, PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void kernel_call_reaches_the_host(struct kunit *test)
{
	const struct function *f = test->param_value;
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	/* What the answer is written to needs no preparation */
	memset(&buf, 0xff, sizeof(buf));
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(f->func, 0x123456789000, 0x3000, 0x1122334455667788,
					      &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_request(test, fake, f->code, 0x123456789000, 0x3000, 0x1122334455667788);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

static void info_needs_no_range(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	struct memctl_buf buf;

	fake->info.arg1 = 7;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_INFO, 1, 2, &buf), 0);
	KUNIT_EXPECT_EQ(test, fake->log[0].length, ~0ULL);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_value, PAGE);
	KUNIT_EXPECT_EQ(test, buf.ret.arg0, 1);
	KUNIT_EXPECT_EQ(test, buf.ret.arg1, 7);

	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_INFO, ~0ULL, ~0ULL, &buf), 0);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_INFO, 0, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 3);
}

static const struct shape {
	const char *desc;
	struct memctl_vmm_ret ret;
	int err;
} shapes[] = {
	{ "success",			{ 0, 0 },			0 },
	{ "success with values",	{ 0, 0, 0x1122334455667788, 5, ~0ULL }, 0 },
	{ "system call failed",		{ ENOMEM, 0 },			-ENOMEM },
	{ "unknown code",		{ EOPNOTSUPP, MEMCTL_FREE },	-EOPNOTSUPP },
	{ "bad address",		{ EINVAL, MEMCTL_FREE },	-EINVAL },
	{ "code of something else",	{ EINVAL, 77 },			-EINVAL },
	{ "greatest errno",		{ 4095, 0 },			-4095 },
	{ "beyond the greatest errno",	{ 4096, 0 },			-EIO },
	{ "errno INT_MAX",		{ 0x7fffffff, 0 },		-EIO },
	{ "errno INT_MIN",		{ 0x80000000, 0 },		-EIO },
	{ "errno -EINVAL",		{ -EINVAL, 0 },			-EIO },
	{ "errno all ones",		{ 0xffffffff, 0 },		-EIO },
	{ "all ones",		{ 0xffffffff, 0xffffffff, ~0ULL, ~0ULL, ~0ULL }, -EIO },
	{ "code without errno",		{ 0, MEMCTL_FREE },		-EIO },
	{ "strange code without errno",	{ 0, 0x80000000 },		-EIO },
};

KUNIT_ARRAY_PARAM_DESC(shape, shapes, desc);

static void answers_of_every_shape(struct kunit *test)
{
	const struct shape *shape = test->param_value;
	struct fake *fake = fake_device(test);
	struct memctl_buf buf;

	fake->ret = shape->ret;
	fake->ret_mask = BIT(MEMCTL_FREE);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ADDR, PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), shape->err);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_errno, shape->ret.ret_errno);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_code, shape->ret.ret_code);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_value, shape->ret.ret_value);
	KUNIT_EXPECT_EQ(test, buf.ret.arg0, shape->ret.arg0);
	KUNIT_EXPECT_EQ(test, buf.ret.arg1, shape->ret.arg1);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

static const struct nonsense {
	const char *desc;
	u64 func;
	u64 addr;
	u64 length;
} nonsense[] = {
	{ "code 15",			15,			ADDR,		PAGE },
	{ "code 31",			31,			ADDR,		PAGE },
	{ "code 40",			40,			ADDR,		PAGE },
	{ "code 63",			63,			ADDR,		PAGE },
	{ "high half of a new code",	BIT_ULL(32) | 33,	ADDR,		PAGE },
	{ "high half of a code",	BIT_ULL(32) | 1,	ADDR,		PAGE },
	{ "INFO with a high half",	BIT_ULL(63),		ADDR,		PAGE },
	{ "code all ones",		~0ULL,			ADDR,		PAGE },
	{ "empty",			MEMCTL_DONTNEED,	ADDR,		0 },
	{ "empty at 0",			MEMCTL_DONTNEED,	0,		0 },
	{ "misaligned start",		MEMCTL_DONTNEED,	ADDR + 1,	PAGE },
	{ "start at half a page",	MEMCTL_DONTNEED,	ADDR + PAGE / 2, PAGE },
	{ "misaligned length",		MEMCTL_DONTNEED,	ADDR,		PAGE + 1 },
	{ "less than a page",		MEMCTL_DONTNEED,	ADDR,		PAGE - 1 },
	{ "wraps",			MEMCTL_DONTNEED,	-PAGE,		2 * PAGE },
	{ "wraps by far",		MEMCTL_DONTNEED,	ADDR,		-PAGE },
	{ "ends at 2^64",		MEMCTL_DONTNEED,	-PAGE,		PAGE },
	{ "all there is",		MEMCTL_DONTNEED,	0,		-PAGE + PAGE },
	{ "length all ones",		MEMCTL_DONTNEED,	0,		~0ULL },
};

KUNIT_ARRAY_PARAM_DESC(nonsense, nonsense, desc);

static void nonsense_does_not_reach_the_host(struct kunit *test)
{
	const struct nonsense *n = test->param_value;
	struct fake *fake = fake_device(test);
	const unsigned int before = fake->writes;
	struct memctl_buf buf;

	KUNIT_EXPECT_EQ(test, fake_call(fake, n->func, n->addr, n->length, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->writes, before);
}

static void kernel_nonsense_does_not_reach_the_host(struct kunit *test)
{
	const struct nonsense *n = test->param_value;
	struct fake *fake = fake_provider(test);
	const unsigned int before = fake->writes;
	struct memctl_buf buf;
	long ret;

	KUNIT_EXPECT_EQ(test, memctl_vmm_call(n->func, n->addr, n->length, 0, &buf), -EINVAL);
	scoped_guard(irqsave)
		ret = memctl_vmm_call(n->func, n->addr, n->length, 0, &buf);
	KUNIT_EXPECT_EQ(test, ret, -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->writes, before);
}

static void last_page_reaches_the_host(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	struct memctl_buf buf;

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_DONTNEED, -2 * PAGE, PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_DONTNEED, 0, PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, fake_did(fake, MEMCTL_DONTNEED), 2);
}

static void alignment_follows_the_host(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");
	struct memctl_buf buf;

	fake->info.ret_value = SZ_64K;
	fake_start(test, fake);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ADDR + SZ_4K, SZ_64K, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ADDR + SZ_32K, SZ_64K, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ADDR, SZ_4K, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ADDR, SZ_64K + SZ_4K, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ADDR, SZ_64K, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void without_device_there_is_none(struct kunit *test)
{
	struct memctl_buf buf;

	need_provider_slot(test);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_INFO, 0, 0, 0, &buf), -ENODEV);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_DONTNEED, ADDR, PAGE, 0, &buf), -ENODEV);
	KUNIT_EXPECT_EQ(test, kernel_ask_atomic(MEMCTL_DONTNEED), -ENODEV);
}

struct every_cpu {
	atomic_t failed;
	atomic_t calls;
};

static void every_cpu_asks(void *data)
{
	struct every_cpu *e = data;
	struct memctl_buf buf;

	if (memctl_vmm_call(MEMCTL_FREE, ADDR + smp_processor_id() * PAGE, PAGE, 0, &buf) ||
	    memctl_ret_errno(&buf))
		atomic_inc(&e->failed);
	atomic_inc(&e->calls);
}

/* In interrupts, all at once */
static void every_cpu_has_its_own_buffer(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct every_cpu e = { };
	unsigned int i, j;

	fake_clear_log(fake);
	on_each_cpu(every_cpu_asks, &e, true);
	KUNIT_EXPECT_EQ(test, atomic_read(&e.failed), 0);
	KUNIT_EXPECT_EQ(test, fake->nr_log, atomic_read(&e.calls));
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
	for (i = 0; i < min(fake->nr_log, ARRAY_SIZE(fake->log)); i++)
		for (j = 0; j < i; j++)
			KUNIT_EXPECT_NE(test, fake->log[i].addr, fake->log[j].addr);
}

/*
 * Lost connections
 */

static void device_call_connects_again(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	struct memctl_buf buf;

	fake_clear_log(fake);
	fake_forget(fake);
	buf.call = (struct memctl_vmm_call) { MEMCTL_SET_VMA_ANON_NAME, ADDR, 3 * PAGE, 42 };
	KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	KUNIT_EXPECT_EQ(test, fake->nr_connections, num_possible_cpus());

	/* Greeting aside, the host saw it once, and whole */
	KUNIT_EXPECT_EQ(test, fake_did(fake, MEMCTL_SET_VMA_ANON_NAME), 1);
	KUNIT_EXPECT_EQ(test, fake->log[fake->nr_log - 1].addr, ADDR);
	KUNIT_EXPECT_EQ(test, fake->log[fake->nr_log - 1].length, 3 * PAGE);
	KUNIT_EXPECT_EQ(test, fake->log[fake->nr_log - 1].arg, 42);

	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

static void consumers_learn_of_a_reconnect(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct watcher *w = watch(test);

	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESET), 0);
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESET));
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), 0);

	/* No work is under way after this */
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 1);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESET), 1);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESUMED), 0);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_LOST), 1);
}

static void kernel_call_connects_again(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct watcher *w = watch(test);

	fake_forget(fake);
	if (IS_ENABLED(CONFIG_PREEMPT_COUNT))
		KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), 0);
	else
		KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESET));
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESET), 1);
}

enum atomic_kind { IRQS_OFF, PREEMPTION_OFF, BH_OFF, SPINLOCK, RCU_READER };

static const struct atomic_context {
	const char *desc;
	enum atomic_kind kind;
} atomic_contexts[] = {
	{ "interrupts off",		IRQS_OFF },
	{ "preemption off",		PREEMPTION_OFF },
	{ "softirqs off",		BH_OFF },
	{ "spinlock held",		SPINLOCK },
	{ "RCU read section",		RCU_READER },
};

KUNIT_ARRAY_PARAM_DESC(atomic_context, atomic_contexts, desc);

static long atomic_ask(enum atomic_kind kind)
{
	static DEFINE_RAW_SPINLOCK(lock);
	long ret = -EDOM;

	switch (kind) {
	case IRQS_OFF:
		scoped_guard(irqsave)
			ret = kernel_ask(MEMCTL_FREE);
		break;
	case PREEMPTION_OFF:
		scoped_guard(preempt)
			ret = kernel_ask(MEMCTL_FREE);
		break;
	case BH_OFF:
		local_bh_disable();
		ret = kernel_ask(MEMCTL_FREE);
		local_bh_enable();
		break;
	case SPINLOCK:
		scoped_guard(raw_spinlock, &lock)
			ret = kernel_ask(MEMCTL_FREE);
		break;
	case RCU_READER:
		scoped_guard(rcu)
			ret = kernel_ask(MEMCTL_FREE);
		break;
	}
	return ret;
}

static void atomic_call_leaves_it_to_a_work(struct kunit *test)
{
	const struct atomic_context *context = test->param_value;
	struct fake *fake = fake_provider(test);
	struct watcher *w = watch(test);

	KUNIT_EXPECT_EQ(test, atomic_ask(context->kind), 0);
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, atomic_ask(context->kind), -EIO);
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESET));
	KUNIT_EXPECT_EQ(test, atomic_ask(context->kind), 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESET), 1);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

static void atomic_call_does_not_wait(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	unsigned int writes, resets;
	long ret;

	fake_forget(fake);
	scoped_guard(irqsave) {
		writes = fake->writes;
		ret = kernel_ask(MEMCTL_FREE);
		writes = fake->writes - writes;
		resets = fake->resets;
	}
	KUNIT_EXPECT_EQ(test, ret, -EIO);
	KUNIT_EXPECT_EQ(test, writes, 1);
	KUNIT_EXPECT_EQ(test, resets, 1);
}

/* Work that comes late must not take down what somebody has repaired */
static void late_work_does_not_connect_again(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct watcher *w = watch(test);

	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, kernel_ask_atomic(MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESET));
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESET), 1);
}

static void ask_while_connecting(struct fake *fake, u32 command)
{
	long *ret = fake->hook_data;

	if (command != MEMCTL_CMD_READY)
		return;
	fake->hook = NULL;
	*ret = kernel_ask_atomic(MEMCTL_FREE);
}

/* Such as an interrupt, in the middle of the handshake */
static void atomic_call_while_connecting(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct watcher *w = watch(test);
	long ret = 0;

	fake_forget(fake);
	fake->hook_data = &ret;
	fake->hook = ask_while_connecting;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, ret, -EIO);
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESET));
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), 0);
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
}

static void dead_device_is_given_up(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	unsigned int before = fake->writes;

	fake->dead = true;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, fake->resets, 1 + ATTEMPTS);
	KUNIT_EXPECT_LE(test, fake->writes - before, ATTEMPTS * (2 * num_possible_cpus() + 3) + 2);

	before = fake->writes;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_INFO), -EIO);
	KUNIT_EXPECT_EQ(test, fake->writes, before);

	/* Not even when it comes to life */
	fake->dead = false;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, fake->writes, before);

	/* But then */
	pvmemctl_suspend(fake->pm);
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), 0);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

static void dead_device_is_given_up_by_the_work(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct watcher *w = watch(test);
	const unsigned long end = jiffies + PATIENCE;
	unsigned int before;

	fake->dead = true;
	KUNIT_EXPECT_EQ(test, kernel_ask_atomic(MEMCTL_FREE), -EIO);
	while (!READ_ONCE(fake->disconnects) && time_before(jiffies, end))
		msleep(20);
	KUNIT_EXPECT_EQ(test, fake->disconnects, 1);
	KUNIT_EXPECT_EQ(test, fake->resets, 1 + ATTEMPTS);

	before = fake->writes;
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, kernel_ask_atomic(MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	msleep(20);
	KUNIT_EXPECT_EQ(test, fake->writes, before);
	/* What it had set may be gone */
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESET));
	fake_unregister(fake);
}

/* Shakes hands, answers INFO, and then not a word */
static void silent_device_is_asked_a_few_times(struct kunit *test)
{
	struct fake *fake = fake_device(test);

	fake->silent = BIT(MEMCTL_FREE);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_LE(test, fake->resets, 1 + ATTEMPTS);
	KUNIT_EXPECT_LE(test, fake->rung, 2 * ATTEMPTS);
}

/* Whoever asks, and however often: each new connection costs what was set before */
static void silent_device_is_given_up(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	unsigned int before, i;

	fake->silent = BIT(MEMCTL_FREE);
	for (i = 0; i < 10; i++)
		KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_LE(test, fake->resets, 1 + ATTEMPTS);
	KUNIT_EXPECT_EQ(test, fake->disconnects, 1);
	before = fake->writes;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_DONTNEED), -EIO);
	KUNIT_EXPECT_EQ(test, fake->writes, before);
}

/* But one that is restored again and again is not to blame */
static void restored_often_is_not_given_up(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	unsigned int i;

	for (i = 1; i <= 10; i++) {
		fake_forget(fake);
		KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
		KUNIT_EXPECT_EQ(test, fake->resets, 1 + i);
	}
}

/* What was held against it before does not count after a resume */
static void resume_is_a_new_beginning(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	unsigned int i;

	fake->silent = BIT(MEMCTL_FREE);
	for (i = 0; i < 10; i++)
		KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	pvmemctl_suspend(fake->pm);
	fake->silent = 0;
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), 0);
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
}

/* The host was replaced by one that this driver cannot use */
static void reconnect_may_meet_another_host(struct kunit *test)
{
	struct fake *fake = fake_device(test);

	fake->info.arg0 = 2;
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	KUNIT_EXPECT_EQ(test, fake->disconnects, 1);
}

static int job_ask(struct job *job)
{
	struct memctl_buf buf;

	return fake_call(job->fake, MEMCTL_FREE, job->addr, PAGE, &buf) ?: memctl_ret_errno(&buf);
}

static void all_cpus_fail_at_once(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	const unsigned int n = num_online_cpus() * 4;
	unsigned int i, started, round;
	struct completion start;
	struct job *jobs;

	jobs = kunit_kcalloc(test, n, sizeof(*jobs), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, jobs);
	fake->reset_delay = 2;

	for (round = 1; round <= 10; round++) {
		init_completion(&start);
		for (started = 0; started < n; started++) {
			jobs[started] = (struct job) {
				.fn = job_ask, .fake = fake, .start = &start,
				.addr = ADDR + started * PAGE,
			};
			if (job_begin(&jobs[started]))
				break;
		}
		fake_clear_log(fake);
		fake_forget(fake);
		complete_all(&start);
		for (i = 0; i < started; i++)
			job_end(&jobs[i]);

		KUNIT_ASSERT_EQ(test, started, n);
		for (i = 0; i < n; i++)
			KUNIT_EXPECT_EQ(test, jobs[i].ret, 0);
		KUNIT_EXPECT_EQ(test, fake->resets, 1 + round);
		KUNIT_EXPECT_EQ(test, fake_did(fake, MEMCTL_FREE), n);
	}
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

/*
 * Nesting
 */

struct nested {
	long ret;
	unsigned int rung;		/* by the inner call */
};

static void nest(struct fake *fake, u32 command)
{
	struct nested *n = fake->hook_data;
	struct memctl_buf buf;

	if (!(command & MEMCTL_CONNECTION_BASE))
		return;
	fake->hook = NULL;
	n->rung = fake->rung;
	n->ret = memctl_vmm_call(MEMCTL_MPROTECT_NONE, 7 * ADDR, 5 * PAGE, 3, &buf);
	n->rung = fake->rung - n->rung;
}

static void nested_call_is_busy(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct nested n = { };
	struct memctl_buf buf;

	fake_clear_log(fake);
	fake->hook_data = &n;
	fake->hook = nest;
	fake->ret = (struct memctl_vmm_ret) { .ret_value = 1234, .arg1 = 5678 };
	fake->ret_mask = BIT(MEMCTL_FREE);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, PAGE, 9, &buf), 0);
	KUNIT_EXPECT_EQ(test, n.ret, -EBUSY);
	KUNIT_EXPECT_EQ(test, n.rung, 0);

	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_value, 1234);
	KUNIT_EXPECT_EQ(test, buf.ret.arg1, 5678);
	expect_request(test, fake, MEMCTL_FREE, ADDR, PAGE, 9);
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), 0);
}

static void nested_call_is_busy_under_a_device_call(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct nested n = { };

	fake_clear_log(fake);
	fake->hook_data = &n;
	fake->hook = nest;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, n.ret, -EBUSY);
	expect_request(test, fake, MEMCTL_FREE, ram_addr, PAGE, 0);
}

/*
 * Long ranges, and hosts with several regions
 */

#define PAGES		64

/* How many doorbells finding a border may take */
static unsigned int search(u64 pages)
{
	return 2 * ilog2(pages) + 4;
}

static void border_is_found(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;
	unsigned int i;

	for (i = 1; i < PAGES; i++) {
		fake->border[0] = ADDR + i * PAGE;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_DONTDUMP, ADDR, PAGES * PAGE, 0, &buf),
				0);
		KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
		expect_in_order(test, fake, MEMCTL_DONTDUMP, ADDR, PAGES * PAGE);
		KUNIT_EXPECT_LE(test, fake->rung, search(PAGES));
	}
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

static void border_at_an_end_costs_nothing(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	fake->border[0] = ADDR;
	fake->border[1] = ADDR + PAGES * PAGE;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, PAGES * PAGE, 0, &buf), 0);
	expect_in_order(test, fake, MEMCTL_FREE, ADDR, PAGES * PAGE);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void several_borders_are_found(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;
	unsigned int i, j;

	for (i = 1; i < PAGES; i++) {
		for (j = i + 1; j < PAGES; j++) {
			fake->border[0] = ADDR + i * PAGE;
			fake->border[1] = ADDR + j * PAGE;
			fake_clear_log(fake);
			KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, PAGES * PAGE, 0,
							      &buf), 0);
			KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
			expect_in_order(test, fake, MEMCTL_FREE, ADDR, PAGES * PAGE);
			KUNIT_EXPECT_LE(test, fake->rung, 2 * search(PAGES));
		}
	}
}

static void border_is_found_in_a_gigabyte(struct kunit *test)
{
	static const u64 borders[] = { PAGE, SZ_2M, SZ_512M, 12345 * PAGE, STEP - PAGE };
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(borders); i++) {
		fake->border[0] = ADDR + borders[i];
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_MLOCK, ADDR, STEP, 0, &buf), 0);
		KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
		expect_in_order(test, fake, MEMCTL_MLOCK, ADDR, STEP);
		KUNIT_EXPECT_LE(test, fake->rung, search(STEP / PAGE));
	}
}

static void border_is_found_in_atomic_context(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;
	long ret;

	fake->border[0] = ADDR + 7 * PAGE;
	fake_clear_log(fake);
	scoped_guard(irqsave)
		ret = memctl_vmm_call(MEMCTL_FREE, ADDR, PAGES * PAGE, 0, &buf);
	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_FREE, ADDR, PAGES * PAGE);
	KUNIT_EXPECT_LE(test, fake->rung, search(PAGES));
}

/* Steps are whole pages of the host, whatever those of the guest are */
static void border_is_found_with_large_host_pages(struct kunit *test)
{
	struct fake *fake;
	struct memctl_buf buf;
	unsigned int i;

	need_provider_slot(test);
	fake = fake_new(test, "pvmemctl-fake");
	fake->info.ret_value = SZ_64K;
	fake_start(test, fake);
	for (i = 1; i < 16; i++) {
		fake->border[0] = ADDR + i * SZ_64K;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, SZ_1M, 0, &buf), 0);
		KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
		expect_in_order(test, fake, MEMCTL_FREE, ADDR, SZ_1M);
		KUNIT_EXPECT_LE(test, fake->rung, search(16));
	}
}

static void device_call_finds_a_border_in_ram(struct kunit *test)
{
	const u64 ram = need_ram(test, PAGES * PAGE);
	struct fake *fake = fake_device(test);
	struct memctl_buf buf;

	fake->border[0] = ram + 5 * PAGE;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ram, PAGES * PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_FREE, ram, PAGES * PAGE);
	KUNIT_EXPECT_LE(test, fake->rung, search(PAGES));
}

/* A request of user space that may be wrong has its whole effect or none */
static void device_call_does_not_split_what_is_no_ram(struct kunit *test)
{
	struct fake *fake;
	struct memctl_buf buf;
	u64 addr;

	need_made_up_ram(test);
	addr = made_up_ram[1].start + SZ_1G;
	fake = fake_device(test);

	fake->border[0] = addr + 5 * PAGE;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, addr, PAGES * PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);

	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, addr, STEP + PAGE, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void device_call_does_not_split_where_ram_ends(struct kunit *test)
{
	struct fake *fake;
	struct memctl_buf buf;
	u64 end;

	need_made_up_ram(test);
	end = made_up_ram[1].end + 1;
	fake = fake_device(test);
	fake->border[0] = end;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, end - 2 * PAGE, 4 * PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
	KUNIT_EXPECT_EQ(test, fake_did(fake, MEMCTL_FREE), 0);
}

static void small_regions_are_found(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	fake->longest = PAGE;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, 16 * PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_FREE, ADDR, 16 * PAGE);
}

/* A host that makes a long search of everything does not keep a CPU for long */
static void search_is_bounded(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	fake->longest = PAGE;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, STEP, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EINVAL);
	KUNIT_EXPECT_LE(test, fake->rung, 512);
}

static void bad_page_is_final(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		fake->bad = ADDR + i * PAGE;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, PAGES * PAGE, 0, &buf), 0);
		KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EINVAL);
		KUNIT_EXPECT_EQ(test, buf.ret.ret_code, MEMCTL_FREE);
		expect_in_order(test, fake, MEMCTL_FREE, ADDR, i * PAGE);
		KUNIT_EXPECT_LE(test, fake->rung, 2 * search(PAGES));
	}
}

static void bad_range_is_final(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	fake->ret = (struct memctl_vmm_ret) { EINVAL, MEMCTL_FREE };
	fake->ret_mask = BIT(MEMCTL_FREE);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, STEP, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EINVAL);
	KUNIT_EXPECT_LE(test, fake->rung, search(STEP / PAGE));
}

static const struct shape not_refused[] = {
	{ "the system call said EINVAL",	{ EINVAL, 0 },			-EINVAL },
	{ "unknown code",			{ EOPNOTSUPP, MEMCTL_FREE },	-EOPNOTSUPP },
	{ "policy",				{ EPERM, MEMCTL_FREE },		-EPERM },
	{ "code of something else",		{ EINVAL, MEMCTL_MLOCK },	-EINVAL },
	{ "code without errno",			{ 0, MEMCTL_FREE },		-EIO },
};

KUNIT_ARRAY_PARAM_DESC(not_refused, not_refused, desc);

static void other_errors_are_not_split(struct kunit *test)
{
	const struct shape *shape = test->param_value;
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	fake->ret = shape->ret;
	fake->ret_mask = BIT(MEMCTL_FREE);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, PAGES * PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), shape->err);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void kernel_call_goes_in_steps(struct kunit *test)
{
	const u64 length = 2ULL * STEP + 5 * PAGE;
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	if (!IS_ENABLED(CONFIG_PREEMPT_COUNT))
		kunit_skip(test, "every context counts as atomic without CONFIG_PREEMPT_COUNT");

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_DONTDUMP, ADDR, length, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_DONTDUMP, ADDR, length);
	KUNIT_EXPECT_EQ(test, fake->rung, 3);
}

static void device_call_goes_in_steps(struct kunit *test)
{
	const u64 length = 2ULL * STEP + 5 * PAGE;
	const u64 ram = need_ram(test, length);
	struct fake *fake = fake_device(test);
	struct memctl_buf buf = { .call = { MEMCTL_SET_VMA_ANON_NAME, ram, length, 42 } };
	unsigned int i;

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_SET_VMA_ANON_NAME, ram, length);
	KUNIT_EXPECT_EQ(test, fake->rung, 3);
	for (i = 0; i < fake->nr_log; i++)
		KUNIT_EXPECT_EQ(test, fake->log[i].arg, 42);
}

static void step_that_fails_is_the_last(struct kunit *test)
{
	const u64 ram = need_ram(test, 2ULL * STEP + 5 * PAGE);
	struct fake *fake = fake_device(test);
	struct memctl_buf buf;

	fake->ret = (struct memctl_vmm_ret) { .ret_errno = ENOMEM };
	fake->ret_mask = BIT(MEMCTL_DONTDUMP);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_DONTDUMP, ram, 2ULL * STEP + 5 * PAGE, &buf),
			0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -ENOMEM);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void atomic_call_is_limited(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;
	long ret[3];

	fake_clear_log(fake);
	scoped_guard(irqsave) {
		ret[0] = memctl_vmm_call(MEMCTL_FREE, ADDR, STEP + PAGE, 0, &buf);
		ret[1] = memctl_vmm_call(MEMCTL_FREE, ADDR, 8ULL * STEP, 0, &buf);
	}
	KUNIT_EXPECT_EQ(test, ret[0], -E2BIG);
	KUNIT_EXPECT_EQ(test, ret[1], -E2BIG);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);

	scoped_guard(irqsave) {
		ret[0] = memctl_vmm_call(MEMCTL_FREE, ADDR, STEP, 0, &buf);
		ret[1] = memctl_ret_errno(&buf);
		ret[2] = memctl_vmm_call(MEMCTL_INFO, 0, ~0ULL, 0, &buf);
	}
	KUNIT_EXPECT_EQ(test, ret[0], 0);
	KUNIT_EXPECT_EQ(test, ret[1], 0);
	KUNIT_EXPECT_EQ(test, ret[2], 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 2);
}

static void forget_at_the_third(struct fake *fake, u32 command)
{
	unsigned int *doorbells = fake->hook_data;

	if (!(command & MEMCTL_CONNECTION_BASE) || ++*doorbells != 3)
		return;
	fake->hook = NULL;
	fake_forget(fake);
}

static void connection_is_lost_between_steps(struct kunit *test)
{
	const u64 ram = need_ram(test, PAGES * PAGE);
	struct fake *fake = fake_device(test);
	unsigned int doorbells = 0;
	struct memctl_buf buf;

	fake->border[0] = ram + 29 * PAGE;
	fake_clear_log(fake);
	fake->hook_data = &doorbells;
	fake->hook = forget_at_the_third;
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ram, PAGES * PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	fake->log[2].length = 0;	/* the greeting has no range */
	expect_in_order(test, fake, MEMCTL_FREE, ram, PAGES * PAGE);
}

static int job_call_killed(struct job *job)
{
	struct memctl_buf buf;

	job_kill_self();
	return fake_call(job->fake, MEMCTL_FREE, job->addr, 2 * PAGE, &buf);
}

static void fatal_signal_ends_a_long_call(struct kunit *test)
{
	const u64 ram = need_ram(test, 2 * PAGE);
	struct fake *fake = fake_device(test);

	fake->border[0] = ram + PAGE;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, job_run_killed(test, fake, ram, job_call_killed), -EINTR);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);

	/* A single step is too short to matter */
	fake->border[0] = 0;
	KUNIT_EXPECT_EQ(test, job_run_killed(test, fake, ram, job_call_killed), 0);
}

/*
 * What is left behind in the host
 */

static const struct leave {
	const char *desc;
	void (*leave)(struct pvmemctl *pm);
} leaves[] = {
	{ "unregister",	pvmemctl_unregister },
	{ "suspend",	pvmemctl_suspend },
};

KUNIT_ARRAY_PARAM_DESC(leave, leaves, desc);

static void fake_leave(struct kunit *test, struct fake *fake)
{
	const struct leave *way = test->param_value;

	fake_clear_log(fake);
	way->leave(fake->pm);
	if (way->leave == pvmemctl_unregister)
		fake->pm = NULL;
}

static void protection_and_locks_are_undone(struct kunit *test)
{
	struct fake *fake;

	need_ram(test, PAGE);
	fake = fake_device(test);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_NONE), 0);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake_leave(test, fake);
	expect_undone(test, fake, MEMCTL_MPROTECT_RW);
	expect_undone(test, fake, MEMCTL_MUNLOCK);
	KUNIT_EXPECT_EQ(test, fake->nr_log, fake_did(fake, MEMCTL_MPROTECT_RW) +
			fake_did(fake, MEMCTL_MUNLOCK) + fake_did(fake, MEMCTL_INFO));
	KUNIT_EXPECT_EQ(test, fake->errors, 0);

	/* Once is enough */
	fake_clear_log(fake);
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, fake->nr_log, 0);
}

static void only_what_was_set_is_undone(struct kunit *test)
{
	static const u64 protections[] = {
		MEMCTL_MPROTECT_NONE, MEMCTL_MPROTECT_R, MEMCTL_MPROTECT_W,
	};
	struct fake *fake;
	unsigned int i;

	need_ram(test, PAGE);
	fake = fake_device(test);
	for (i = 0; i < ARRAY_SIZE(protections); i++) {
		KUNIT_EXPECT_EQ(test, fake_ask(fake, protections[i]), 0);
		fake_clear_log(fake);
		pvmemctl_suspend(fake->pm);
		expect_undone(test, fake, MEMCTL_MPROTECT_RW);
		KUNIT_EXPECT_EQ(test, fake_did(fake, MEMCTL_MUNLOCK), 0);
		KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), 0);
	}

	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake_clear_log(fake);
	pvmemctl_suspend(fake->pm);
	KUNIT_EXPECT_EQ(test, fake_did(fake, MEMCTL_MPROTECT_RW), 0);
	expect_undone(test, fake, MEMCTL_MUNLOCK);
}

static void nothing_set_nothing_undone(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(functions); i++) {
		switch (functions[i].func) {
		case MEMCTL_MLOCK:
		case MEMCTL_MPROTECT_NONE:
		case MEMCTL_MPROTECT_R:
		case MEMCTL_MPROTECT_W:
			break;
		default:
			KUNIT_EXPECT_EQ(test, fake_ask(fake, functions[i].func), 0);
		}
	}
	fake_leave(test, fake);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);
}

static void kernel_callers_leave_nothing_either(struct kunit *test)
{
	struct fake *fake;

	need_ram(test, PAGE);
	fake = fake_provider(test);
	KUNIT_EXPECT_EQ(test, kernel_ask_atomic(MEMCTL_MPROTECT_NONE), 0);
	fake_leave(test, fake);
	expect_undone(test, fake, MEMCTL_MPROTECT_RW);
}

/* mprotect() and mlock() that fail may have changed a part */
static void half_a_failure_is_undone(struct kunit *test)
{
	struct fake *fake;

	need_ram(test, PAGE);
	fake = fake_device(test);
	fake->ret = (struct memctl_vmm_ret) { .ret_errno = ENOMEM };
	fake->ret_mask = BIT(MEMCTL_MPROTECT_NONE) | BIT(MEMCTL_MLOCK);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_NONE), -ENOMEM);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), -ENOMEM);
	fake_leave(test, fake);
	expect_undone(test, fake, MEMCTL_MPROTECT_RW);
	expect_undone(test, fake, MEMCTL_MUNLOCK);
}

/* Ends of RAM need not be multiples of the host's page size */
static void large_host_pages_are_undone(struct kunit *test)
{
	struct fake *fake;
	struct memctl_buf buf;

	need_ram(test, SZ_128K);
	fake = fake_new(test, "pvmemctl-fake");
	fake->info.ret_value = SZ_64K;
	fake_start(test, fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_MPROTECT_NONE, ram_addr, SZ_64K, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	fake_leave(test, fake);
	expect_undone(test, fake, MEMCTL_MPROTECT_RW);
}

/* RAM may come and go, and it goes by what there is in the end */
static void undoing_follows_the_ram(struct kunit *test)
{
	struct resource *ram = &made_up_ram[1];
	struct fake *fake;
	unsigned int i;

	need_made_up_ram(test);
	remove_resource(ram);
	fake = fake_new(test, "pvmemctl-fake");
	KUNIT_EXPECT_EQ(test, fake_register(fake), 0);
	KUNIT_EXPECT_EQ(test, insert_resource(&iomem_resource, ram), 0);
	KUNIT_ASSERT_NOT_NULL(test, fake->pm);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake_clear_log(fake);
	fake_unregister(fake);
	expect_undone(test, fake, MEMCTL_MUNLOCK);

	fake_start(test, fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake_clear_log(fake);
	remove_resource(ram);
	fake_unregister(fake);
	expect_undone(test, fake, MEMCTL_MUNLOCK);
	KUNIT_EXPECT_EQ(test, insert_resource(&iomem_resource, ram), 0);
	for (i = 0; i < fake->nr_log; i++)
		KUNIT_EXPECT_NE(test, fake->log[i].addr, ram->start);
}

static void undoing_finds_borders(struct kunit *test)
{
	const u64 ram = need_ram(test, PAGES * PAGE);
	struct fake *fake = fake_device(test);

	fake->border[0] = ram + 17 * PAGE;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake_leave(test, fake);
	expect_undone(test, fake, MEMCTL_MUNLOCK);
}

/* A page that the host does not like must not keep gigabytes from being undone */
static void undoing_goes_on_after_an_error(struct kunit *test)
{
	const u64 ram = need_ram(test, PAGES * PAGE);
	struct fake *fake = fake_device(test);

	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake->bad = ram;
	fake_leave(test, fake);
	expect_undone_but(test, fake, MEMCTL_MUNLOCK, fake->bad);
}

static void undoing_ends_when_the_host_fails(struct kunit *test)
{
	struct fake *fake = fake_device(test);

	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_NONE), 0);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake->ret = (struct memctl_vmm_ret) { .ret_errno = ENOMEM };
	fake->ret_mask = BIT(MEMCTL_MPROTECT_RW) | BIT(MEMCTL_MUNLOCK);
	fake_leave(test, fake);
	KUNIT_EXPECT_EQ(test, fake->state, FAKE_BROKEN);
	need_whole_log(test, fake);
}

static void undoing_ends_when_the_device_is_dead(struct kunit *test)
{
	struct fake *fake = fake_device(test);

	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_NONE), 0);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake->dead = true;
	fake_leave(test, fake);
	KUNIT_EXPECT_LE(test, fake->resets, 1 + ATTEMPTS);
	KUNIT_EXPECT_LE(test, fake->rung, ATTEMPTS);
}

static void undoing_connects_again(struct kunit *test)
{
	struct fake *fake;

	need_ram(test, PAGE);
	fake = fake_device(test);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_R), 0);
	fake_forget(fake);
	fake_leave(test, fake);
	expect_undone(test, fake, MEMCTL_MPROTECT_RW);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
}

static int job_suspend_killed(struct job *job)
{
	job_kill_self();
	pvmemctl_suspend(job->fake->pm);
	return 0;
}

/* Whoever unbinds or reboots may be killed, but the memory must be usable */
static void undoing_does_not_mind_signals(struct kunit *test)
{
	const u64 ram = need_ram(test, PAGES * PAGE);
	struct fake *fake = fake_device(test);

	fake->border[0] = ram + 17 * PAGE;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_NONE), 0);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, job_run_killed(test, fake, 0, job_suspend_killed), 0);
	expect_undone(test, fake, MEMCTL_MPROTECT_RW);
}

static void protect_when_lost(struct watcher *w, unsigned long event)
{
	if (event == PVMEMCTL_LOST)
		w->ret = fake_ask(w->fake, MEMCTL_MPROTECT_NONE);
}

/* An open file may ask until the very end: then that is undone too, or refused */
static void call_during_unregister_is_undone(struct kunit *test)
{
	struct fake *fake;
	struct watcher *w;

	need_ram(test, PAGE);
	fake = fake_provider(test);
	w = watcher_new(test);
	w->fake = fake;
	w->then = protect_when_lost;
	w->ret = -EDOM;
	watcher_start(test, w);

	fake_clear_log(fake);
	fake_unregister(fake);
	KUNIT_EXPECT_NE(test, w->ret, -EDOM);
	if (!w->ret)
		expect_undone(test, fake, MEMCTL_MPROTECT_RW);
}

/* A crash kernel cannot read what is protected, unless we are asked first */
static void protection_puts_panic_notifiers_first(struct kunit *test)
{
	struct fake *fake = fake_device(test);

	/* The suite's exit restores it */
	crash_kexec_post_notifiers = false;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_DONTNEED), 0);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_RW), 0);
	KUNIT_EXPECT_FALSE(test, crash_kexec_post_notifiers);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_NONE), 0);
	KUNIT_EXPECT_TRUE(test, crash_kexec_post_notifiers);
}

/*
 * A shrinker may call, holding locks of its own and waiting for a new connection.
 * So nothing that a caller waits for may be held while memory is allocated.  Only
 * lockdep notices.
 */
static void reclaim_may_call(struct kunit *test)
{
	struct fake *fake;
	unsigned int noreclaim;
	int ret;

	need_ram(test, PAGE);
	if (!IS_ENABLED(CONFIG_PROVE_LOCKING) || !debug_locks)
		kunit_skip(test, "needs lockdep");

	fake = fake_device(test);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	pvmemctl_suspend(fake->pm);
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), 0);

	fake_forget(fake);
	fs_reclaim_acquire(GFP_KERNEL);
	noreclaim = memalloc_noreclaim_save();
	ret = fake_ask(fake, MEMCTL_FREE);
	memalloc_noreclaim_restore(noreclaim);
	fs_reclaim_release(GFP_KERNEL);
	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 3);
	KUNIT_EXPECT_TRUE_MSG(test, debug_locks, "lockdep has found something");
}

/*
 * Protocol 1.1: functions, answers
 */

static const struct function functions_1_1[] = {
	{ "ZERO",		MEMCTL_ZERO,			33 },
	{ "POPULATE",		MEMCTL_POPULATE,		34 },
	{ "HUGEPAGE",		MEMCTL_HUGEPAGE,		35 },
	{ "NOHUGEPAGE",		MEMCTL_NOHUGEPAGE,		36 },
	{ "DODUMP",		MEMCTL_DODUMP,			37 },
	{ "COLD",		MEMCTL_COLD,			38 },
};

KUNIT_ARRAY_PARAM_DESC(function_1_1, functions_1_1, desc);

static void handshake_asks_for_the_table_size(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");

	fake->info.arg1 = 1;
	fake_start(test, fake);
	KUNIT_ASSERT_EQ(test, fake->nr_log, 2);
	KUNIT_EXPECT_EQ(test, fake->log[0].func, 0);
	KUNIT_EXPECT_EQ(test, fake->log[1].func, 32);
	KUNIT_EXPECT_EQ(test, fake->log[1].addr, 0);
	KUNIT_EXPECT_EQ(test, fake->log[1].length, ~0ULL);
	KUNIT_EXPECT_EQ(test, fake->log[1].arg, 0);
}

static void any_minor_will_do(struct kunit *test)
{
	static const u64 minors[] = { 0, 1, 2, U32_MAX, BIT_ULL(32), ~0ULL };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(minors); i++) {
		struct fake *fake = fake_new(test, "pvmemctl-fake");

		fake->info.arg1 = minors[i];
		fake_start(test, fake);
		KUNIT_EXPECT_EQ(test, fake->nr_log, minors[i] ? 2 : 1);
		KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_ZERO), minors[i] ? 0 : -EOPNOTSUPP);
		fake_unregister(fake);
		kunit_device_unregister(test, fake->dev);
	}
}

/* It must not be taken for one that does not answer, nor may it keep us */
static void query_may_fail(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");

	fake->info.arg1 = 1;
	fake->query = (struct memctl_vmm_ret) { EPERM, MEMCTL_QUERY };
	fake_start(test, fake);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_ZERO), 0);
	fake_unregister(fake);

	fake->silent = BIT_ULL(MEMCTL_QUERY);
	KUNIT_EXPECT_EQ(test, fake_register(fake), -EIO);
	KUNIT_EXPECT_EQ(test, fake->resets, 1 + ATTEMPTS);
}

static void new_function_reaches_the_host(struct kunit *test)
{
	const struct function *f = test->param_value;
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf = { .call = { f->func, ram_addr, 0x3000, 0x1122334455667788 } };

	KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_request(test, fake, f->code, ram_addr, 0x3000, 0x1122334455667788);

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(f->func, ADDR, 0x3000, 5, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_request(test, fake, f->code, ADDR, 0x3000, 5);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(f->func, ADDR, 0x3001, 5, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

static void old_host_does_not_know_it(struct kunit *test)
{
	const struct function *f = test->param_value;
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(f->func, ADDR, PAGES * PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EOPNOTSUPP);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_code, f->code);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void query_needs_no_range(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf = { .call = { MEMCTL_QUERY, 0x1001, 7, 0x2003 } };

	KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), 0);
	expect_request(test, fake, 32, 0x1001, 0, 0x2003);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_value, fake->query.ret_value);
	KUNIT_EXPECT_EQ(test, buf.ret.arg0, ENTRIES);
	KUNIT_EXPECT_EQ(test, buf.ret.arg1, SZ_2M);

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_QUERY, 0, 0, 0, &buf), 0);
	expect_request(test, fake, 32, 0, 0, 0);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_QUERY, ADDR, 0, 8ULL * STEP, &buf), 0);
	expect_request(test, fake, 32, ADDR, 0, 8ULL * STEP);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

static void old_host_does_not_know_query(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_QUERY, 0, 0, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EOPNOTSUPP);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_code, MEMCTL_QUERY);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

static void step_is_learned(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;

	fake->most = SZ_64K;
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, SZ_1M, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_ZERO, ADDR, SZ_1M);
	KUNIT_EXPECT_EQ(test, fake->rung, 1 + SZ_1M / SZ_64K);

	/* Remembered, for this function */
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, SZ_1M, 0, &buf), 0);
	expect_in_order(test, fake, MEMCTL_ZERO, ADDR, SZ_1M);
	KUNIT_EXPECT_EQ(test, fake->rung, SZ_1M / SZ_64K);
	fake->most = 0;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_COLD, ADDR, SZ_1M, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);

	/* Until there is another host, which may have larger pages too */
	fake->most = 3 * PAGE;
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, SZ_1M, 0, &buf), 0);
	fake->most = 0;
	fake->info.ret_value = SZ_64K;
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_DONTNEED), -EINVAL);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, SZ_1M, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static const struct claim {
	const char *desc;
	u64 most;
} claims[] = {
	{ "more than was sent",		SZ_2M },
	{ "as much as was sent",	SZ_1M },
	{ "not whole pages",		PAGE / 2 },
	{ "odd",			3 * PAGE + 1 },
	{ "all ones",			~0ULL },
	{ "one page",			PAGE },
};

KUNIT_ARRAY_PARAM_DESC(claim, claims, desc);

static void step_makes_sense(struct kunit *test)
{
	const struct claim *claim = test->param_value;
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;

	fake->most = SZ_64K;
	fake->most_claim = claim->most;
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, SZ_1M, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_ZERO, ADDR, SZ_1M);
	KUNIT_EXPECT_LE(test, fake->rung, 1 + SZ_1M / PAGE);
}

/* In whatever way it says so */
static void page_too_big_is_final(struct kunit *test)
{
	static const u64 values[] = { 0, 1, PAGE, SZ_64K, ~0ULL };
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;
	unsigned int i;

	fake->ret_mask = BIT_ULL(MEMCTL_ZERO);
	for (i = 0; i < ARRAY_SIZE(values); i++) {
		fake->ret = (struct memctl_vmm_ret) { E2BIG, MEMCTL_ZERO, values[i] };
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, SZ_1M, 0, &buf), 0);
		KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -E2BIG);
		KUNIT_EXPECT_LE(test, fake->rung, search(SZ_1M / PAGE));
	}
}

/* One piece or not at all */
static void what_is_no_ram_is_not_made_smaller(struct kunit *test)
{
	struct fake *fake = fake_device_1_1(test);
	struct memctl_buf buf;

	fake->most = SZ_64K;
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_ZERO, 0x123456780000, SZ_1M, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -E2BIG);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_value, SZ_64K);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void stopped_call_goes_on(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;
	long ret;

	fake->stop_after = 3 * PAGE;
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGES * PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_ZERO, ADDR, PAGES * PAGE);
	KUNIT_EXPECT_EQ(test, fake->rung, DIV_ROUND_UP(PAGES, 3));

	fake_clear_log(fake);
	scoped_guard(irqsave)
		ret = memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGES * PAGE, 0, &buf);
	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_ZERO, ADDR, PAGES * PAGE);

	/* Also what is no RAM, since it was begun */
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_ZERO, 0x123456780000, 8 * PAGE, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	expect_in_order(test, fake, MEMCTL_ZERO, 0x123456780000, 8 * PAGE);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

static void host_may_stop_before_it_begins(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;
	long ret;

	fake->stalls = STALLS;
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, STALLS + 1);

	/* But not for ever */
	fake->stalls = UINT_MAX;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGE, 0, &buf), -EIO);
	KUNIT_EXPECT_EQ(test, fake->rung, STALLS + 1);
	fake_clear_log(fake);
	scoped_guard(irqsave)
		ret = memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGE, 0, &buf);
	KUNIT_EXPECT_EQ(test, ret, -EIO);
	KUNIT_EXPECT_EQ(test, fake->rung, STALLS + 1);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

/* mlock() for one has an EAGAIN of its own */
static void old_host_does_not_stop(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct memctl_buf buf;

	fake->ret = (struct memctl_vmm_ret) { .ret_errno = EAGAIN };
	fake->ret_mask = BIT(MEMCTL_FREE);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_FREE, ADDR, PAGES * PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EAGAIN);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static int job_zero_killed(struct job *job)
{
	struct memctl_buf buf;

	job_kill_self();
	return fake_call(job->fake, MEMCTL_ZERO, job->addr, 2 * PAGE, &buf);
}

static void fatal_signal_ends_a_stopped_call(struct kunit *test)
{
	struct fake *fake = fake_device_1_1(test);

	fake->stop_after = PAGE;
	KUNIT_EXPECT_EQ(test, job_run_killed(test, fake, ram_addr, job_zero_killed), -EINTR);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void granule_is_passed_on(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;

	fake->granule = SZ_2M;
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGES * PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_code, MEMCTL_ZERO);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_value, SZ_2M);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);

	/* Also where the system call said so */
	fake->granule = 0;
	fake->ret = (struct memctl_vmm_ret) { EINVAL, 0, SZ_2M };
	fake->ret_mask = BIT_ULL(MEMCTL_ZERO);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGES * PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, buf.ret.ret_value, SZ_2M);
	KUNIT_EXPECT_EQ(test, fake->rung, 2);
}

static void failure_tells_what_was_done(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;
	unsigned int i;

	fake->most = 16 * PAGE;
	fake->stop_after = 5 * PAGE;
	fake->fail_errno = ENOMEM;
	for (i = 0; i < PAGES; i++) {
		fake->fail_at = ADDR + i * PAGE;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGES * PAGE, 0, &buf), 0);
		KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -ENOMEM);
		KUNIT_EXPECT_EQ(test, buf.ret.ret_code, 0);
		KUNIT_EXPECT_EQ(test, buf.ret.ret_value, i * PAGE);
		expect_in_order(test, fake, MEMCTL_ZERO, ADDR, i * PAGE);
	}
}

static void borders_are_found_between_stops(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;
	unsigned int i;

	fake->most = 24 * PAGE;
	fake->stop_after = 7 * PAGE;
	for (i = 1; i < PAGES; i++) {
		fake->border[0] = ADDR + i * PAGE;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGES * PAGE, 0, &buf), 0);
		KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), 0);
		expect_in_order(test, fake, MEMCTL_ZERO, ADDR, PAGES * PAGE);
		KUNIT_EXPECT_LE(test, fake->rung, search(PAGES) + PAGES / 7 + 2);
	}
}

static const struct shape lies[] = {
	{ "stopped at half a page",	{ EAGAIN, 0, PAGE / 2 },	-EIO },
	{ "stopped at the end",		{ EAGAIN, 0, PAGES * PAGE },	-EIO },
	{ "stopped behind the end",	{ EAGAIN, 0, SZ_1G },		-EIO },
	{ "stopped at all ones",	{ EAGAIN, 0, ~0ULL },		-EIO },
	{ "stopped for ever",		{ EAGAIN, 0, 0 },		-EIO },
	{ "failed at half a page",	{ ENOMEM, 0, PAGE / 2 },	-EIO },
	{ "failed at the end",		{ ENOMEM, 0, PAGES * PAGE },	-EIO },
	{ "failed at all ones",		{ ENOMEM, 0, ~0ULL },		-EIO },
};

KUNIT_ARRAY_PARAM_DESC(lie, lies, desc);

static void liar_is_found_out(struct kunit *test)
{
	const struct shape *lie = test->param_value;
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;

	fake->ret = lie->ret;
	fake->ret_mask = BIT_ULL(MEMCTL_ZERO);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGES * PAGE, 0, &buf), lie->err);
	KUNIT_EXPECT_LE(test, fake->rung, STALLS + 1);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

static const struct shape finals[] = {
	{ "EAGAIN of a policy",		{ EAGAIN, MEMCTL_ZERO, ~0ULL },	-EAGAIN },
	{ "EAGAIN with a strange code",	{ EAGAIN, 77, PAGE },		-EAGAIN },
	{ "E2BIG of a system call",	{ E2BIG, 0, PAGE },		-E2BIG },
	{ "E2BIG with a strange code",	{ E2BIG, 77, PAGE },		-E2BIG },
	{ "EPERM",			{ EPERM, MEMCTL_ZERO },		-EPERM },
	{ "EBUSY",			{ EBUSY, MEMCTL_ZERO },		-EBUSY },
	{ "ENOSPC",			{ ENOSPC, MEMCTL_ZERO },	-ENOSPC },
	{ "code without errno",		{ 0, MEMCTL_ZERO, PAGE },	-EIO },
};

KUNIT_ARRAY_PARAM_DESC(final, finals, desc);

static void other_answers_are_final(struct kunit *test)
{
	const struct shape *final = test->param_value;
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;

	fake->ret = final->ret;
	fake->ret_mask = BIT_ULL(MEMCTL_ZERO);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_ZERO, ADDR, PAGES * PAGE, 0, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), final->err);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

/*
 * Protocol 1.1: many ranges at once
 */

/* Ranges of one to five pages, none next to another */
static struct memctl_vmm_range *new_ranges(struct kunit *test, unsigned int nr)
{
	struct memctl_vmm_range *ranges = kunit_kcalloc(test, nr, sizeof(*ranges), GFP_KERNEL);
	unsigned int i;

	KUNIT_ASSERT_NOT_NULL(test, ranges);
	for (i = 0; i < nr; i++)
		ranges[i] = (struct memctl_vmm_range) {
			.addr = ADDR + i * SZ_64K, .length = (1 + i % 5) * PAGE,
		};
	return ranges;
}

/* The host did @func to the first @nr of @ranges and @part of the next, once, in order */
static void expect_ranges(struct kunit *test, struct fake *fake, u64 func,
			  const struct memctl_vmm_range *ranges, unsigned int nr, u64 part)
{
	unsigned int i, n = 0;
	u64 offset = 0;

	KUNIT_ASSERT_LE(test, fake->nr_log, ARRAY_SIZE(fake->log));
	for (i = 0; i < fake->nr_log; i++) {
		struct doorbell *d = &fake->log[i];

		if (!d->did || d->func != func)
			continue;
		KUNIT_ASSERT_LE(test, n, nr);
		KUNIT_EXPECT_EQ(test, d->addr, ranges[n].addr + offset);
		offset += d->did;
		KUNIT_EXPECT_LE(test, offset, ranges[n].length);
		if (offset == ranges[n].length) {
			n++;
			offset = 0;
		}
	}
	KUNIT_EXPECT_EQ(test, n, nr);
	KUNIT_EXPECT_EQ(test, offset, part);
}

static void expect_table(struct kunit *test, struct fake *fake,
			 const struct memctl_vmm_range *ranges, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		u8 entry[ENTRY_SIZE];

		put_unaligned_le64(ranges[i].addr, entry);
		put_unaligned_le64(ranges[i].length, entry + 8);
		KUNIT_EXPECT_MEMEQ(test, fake->table + i * ENTRY_SIZE, entry, ENTRY_SIZE);
	}
}

static void one_doorbell_for_many_ranges(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_vmm_range *ranges = new_ranges(test, ENTRIES);
	unsigned int done = 7;

	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_ZERO, ranges, ENTRIES, &done), 0);
	KUNIT_EXPECT_EQ(test, done, ENTRIES);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
	expect_ranges(test, fake, MEMCTL_ZERO, ranges, ENTRIES, 0);
	expect_table(test, fake, ranges, ENTRIES);
	KUNIT_EXPECT_EQ(test, get_unaligned_le64(fake->request), 39);
	KUNIT_EXPECT_EQ(test, get_unaligned_le64(fake->request + 16), ENTRIES);
	KUNIT_EXPECT_EQ(test, get_unaligned_le64(fake->request + 24), 33);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);

	/* And the same once more */
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges + 1, 2, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 2);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
	expect_table(test, fake, ranges + 1, 2);
}

static void one_range_needs_no_table(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_vmm_range *ranges = new_ranges(test, 1);
	unsigned int done = 7;

	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_ZERO, ranges, 1, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 1);
	expect_request(test, fake, 33, ranges->addr, ranges->length, 0);

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_ZERO, ranges, 0, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);
}

static const struct table_size {
	const char *desc;
	u64 host;
	unsigned int entries;
} table_sizes[] = {
	{ "none",		0,		1 },
	{ "one",		1,		1 },
	{ "two",		2,		2 },
	{ "seventeen",		17,		17 },
	{ "256",		256,		256 },
	{ "257",		257,		256 },
	{ "65536",		65536,		256 },
	{ "2^32",		BIT_ULL(32),	256 },
	{ "2^64 - 2",		~1ULL,		256 },
};

KUNIT_ARRAY_PARAM_DESC(table_size, table_sizes, desc);

static void tables_are_as_long_as_the_host_takes(struct kunit *test)
{
	const struct table_size *size = test->param_value;
	const unsigned int nr = 600;
	struct memctl_vmm_range *ranges = new_ranges(test, nr);
	unsigned int done;
	struct fake *fake;

	need_provider_slot(test);
	fake = fake_new(test, "pvmemctl-fake");
	fake->info.arg1 = 1;
	fake->query.arg0 = size->host;
	fake_start(test, fake);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_COLD, ranges, nr, &done), 0);
	KUNIT_EXPECT_EQ(test, done, nr);
	KUNIT_EXPECT_EQ(test, fake->rung, DIV_ROUND_UP(nr, size->entries));
	expect_ranges(test, fake, MEMCTL_COLD, ranges, nr, 0);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

static void old_host_gets_one_range_at_a_time(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider(test);
	unsigned int done;

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_DONTNEED, ranges, 40, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 40);
	KUNIT_EXPECT_EQ(test, fake->rung, 40);
	expect_ranges(test, fake, MEMCTL_DONTNEED, ranges, 40, 0);

	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_ZERO, ranges, 40, &done), -EOPNOTSUPP);
	KUNIT_EXPECT_EQ(test, done, 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void host_may_not_know_tables(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int done;

	fake->ret = (struct memctl_vmm_ret) { EOPNOTSUPP, MEMCTL_VECTOR };
	fake->ret_mask = BIT_ULL(MEMCTL_VECTOR);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_DONTNEED, ranges, 40, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 40);
	KUNIT_EXPECT_EQ(test, fake->rung, 41);
	expect_ranges(test, fake, MEMCTL_DONTNEED, ranges, 40, 0);
}

static const struct shape table_refusals[] = {
	{ "EPERM",			{ EPERM, MEMCTL_VECTOR },	-EPERM },
	{ "EBUSY",			{ EBUSY, MEMCTL_VECTOR },	-EBUSY },
	{ "EAGAIN of a policy",		{ EAGAIN, MEMCTL_VECTOR },	-EAGAIN },
	{ "first range not supported",	{ EOPNOTSUPP, 0 },		-EOPNOTSUPP },
	{ "code without errno",		{ 0, MEMCTL_VECTOR, 40 },	-EIO },
	{ "errno all ones",		{ ~0U, MEMCTL_VECTOR },		-EIO },
};

KUNIT_ARRAY_PARAM_DESC(table_refusal, table_refusals, desc);

static void refused_table_is_final(struct kunit *test)
{
	const struct shape *refusal = test->param_value;
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int done = 7;

	fake->ret = refusal->ret;
	fake->ret_mask = BIT_ULL(MEMCTL_VECTOR);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_DONTNEED, ranges, 40, &done),
			refusal->err);
	KUNIT_EXPECT_EQ(test, done, 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void failed_range_is_counted(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int i, done;

	fake->fail_errno = ENOMEM;
	for (i = 0; i < 40; i++) {
		/* In the middle, where there is one */
		u64 part = round_down(ranges[i].length / 2, PAGE);

		fake->fail_at = ranges[i].addr + part;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), -ENOMEM);
		KUNIT_EXPECT_EQ(test, done, i);
		KUNIT_EXPECT_EQ(test, fake->rung, 1);
		expect_ranges(test, fake, MEMCTL_FREE, ranges, i, part);
	}
}

static void failed_range_is_counted_on_an_old_host(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider(test);
	unsigned int i, done;

	fake->fail_errno = ENOMEM;
	for (i = 0; i < 40; i++) {
		fake->fail_at = ranges[i].addr;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), -ENOMEM);
		KUNIT_EXPECT_EQ(test, done, i);
		expect_ranges(test, fake, MEMCTL_FREE, ranges, i, 0);
	}
}

/* A refused range is asked for alone, and the others in tables again */
static void border_in_a_table_is_found(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int i, done;

	for (i = 0; i < 40; i++) {
		if (ranges[i].length == PAGE)
			continue;
		fake->border[0] = ranges[i].addr + PAGE;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), 0);
		KUNIT_EXPECT_EQ(test, done, 40);
		KUNIT_EXPECT_LE(test, fake->rung, 2 + search(5));
		expect_ranges(test, fake, MEMCTL_FREE, ranges, 40, 0);
	}
}

static void bad_range_in_a_table_is_final(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int i, done;

	for (i = 0; i < 40; i++) {
		fake->bad = ranges[i].addr;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), -EINVAL);
		KUNIT_EXPECT_EQ(test, done, i);
		KUNIT_EXPECT_LE(test, fake->rung, 2 + search(5));
		expect_ranges(test, fake, MEMCTL_FREE, ranges, i, 0);
	}

	fake->bad = 0;
	fake->granule = SZ_64K;
	ranges[0].length = SZ_64K;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), -EINVAL);
	KUNIT_EXPECT_EQ(test, done, 1);
	KUNIT_EXPECT_EQ(test, fake->rung, 2);
}

/* No range is good for a table, all are good alone */
static void table_may_be_bad(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int done;

	fake->ret = (struct memctl_vmm_ret) { EINVAL, MEMCTL_VECTOR };
	fake->ret_mask = BIT_ULL(MEMCTL_VECTOR);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 40);
	KUNIT_EXPECT_LE(test, fake->rung, 2 * 40);
	expect_ranges(test, fake, MEMCTL_FREE, ranges, 40, 0);
}

static void stopped_table_goes_on(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int i, done, atomic;
	long ret;

	for (i = 1; i <= 120; i++) {
		fake->stop_after = i * PAGE;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_ZERO, ranges, 40, &done), 0);
		KUNIT_EXPECT_EQ(test, done, 40);
		KUNIT_EXPECT_EQ(test, fake->rung, DIV_ROUND_UP(120, i));
		expect_ranges(test, fake, MEMCTL_ZERO, ranges, 40, 0);
	}

	fake->stop_after = 7 * PAGE;
	fake->stalls = STALLS;
	fake_clear_log(fake);
	scoped_guard(irqsave)
		ret = memctl_vmm_call_vec(MEMCTL_ZERO, ranges, 40, &atomic);
	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_EQ(test, atomic, 40);
	expect_ranges(test, fake, MEMCTL_ZERO, ranges, 40, 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

/* Never more bytes in a doorbell than it may carry, however they are spread */
static void tables_are_as_heavy_as_the_host_takes(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int i, done;

	for (i = 130; i; i--) {
		fake->most = i * PAGE;
		fake_clear_log(fake);
		KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_ZERO, ranges, 40, &done), 0);
		KUNIT_EXPECT_EQ(test, done, 40);
		KUNIT_EXPECT_LE(test, fake->heaviest, fake->most);
		KUNIT_EXPECT_LE(test, fake->rung, 1 + DIV_ROUND_UP(120, i));
		expect_ranges(test, fake, MEMCTL_ZERO, ranges, 40, 0);
	}

	/* And what one doorbell carries at most, as long as the host does not say */
	fake->most = 0;
	for (i = 0; i < 4; i++)
		ranges[i] = (struct memctl_vmm_range) { ADDR + i * STEP, STEP / 4 };
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 4, &done), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
	KUNIT_EXPECT_EQ(test, fake->heaviest, STEP);
	if (!IS_ENABLED(CONFIG_PREEMPT_COUNT))
		return;
	ranges[0].length = STEP + PAGE;
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 4, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 4);
	KUNIT_EXPECT_EQ(test, fake->rung, 2);
	KUNIT_EXPECT_LE(test, fake->heaviest, STEP);
	expect_ranges(test, fake, MEMCTL_FREE, ranges, 4, 0);
}

static const struct shape table_claims[] = {
	{ "none",			{ E2BIG, MEMCTL_VECTOR, 0 },		0 },
	{ "all ones",			{ E2BIG, MEMCTL_VECTOR, ~0ULL },	0 },
	{ "odd",			{ E2BIG, MEMCTL_VECTOR, 12345 },	0 },
	{ "a page",			{ E2BIG, MEMCTL_VECTOR, PAGE },		0 },
	{ "range too big",		{ E2BIG, 0 },				0 },
};

KUNIT_ARRAY_PARAM_DESC(table_claim, table_claims, desc);

/* No table is small enough, all ranges are */
static void table_may_be_too_big(struct kunit *test)
{
	const struct shape *claim = test->param_value;
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int done;

	fake->ret = claim->ret;
	fake->ret_mask = BIT_ULL(MEMCTL_VECTOR);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 40);
	KUNIT_EXPECT_LE(test, fake->rung, 256);
	expect_ranges(test, fake, MEMCTL_FREE, ranges, 40, 0);
}

/* Of the 40 ranges of new_ranges() */
static const struct shape table_lies[] = {
	{ "done too few",		{ 0, 0, 39 },			-EIO },
	{ "done none",			{ 0, 0, 0 },			-EIO },
	{ "done too many",		{ 0, 0, 41 },			-EIO },
	{ "done 2^32 too many",		{ 0, 0, BIT_ULL(32) | 40 },	-EIO },
	{ "stopped at the end",		{ EAGAIN, 0, 40 },		-EIO },
	{ "stopped behind the end",	{ EAGAIN, 0, 41 },		-EIO },
	{ "stopped at 2^32",		{ EAGAIN, 0, BIT_ULL(32) },	-EIO },
	{ "stopped at all ones",	{ EAGAIN, 0, ~0ULL },		-EIO },
	{ "stopped at half a page",	{ EAGAIN, 0, 4, 0, PAGE / 2 },	-EIO },
	{ "stopped at a range's end",	{ EAGAIN, 0, 4, 0, 5 * PAGE },	-EIO },
	{ "stopped behind it",		{ EAGAIN, 0, 4, 0, ~0ULL & -PAGE }, -EIO },
	{ "stopped for ever",		{ EAGAIN, 0, 0 },		-EIO },
	{ "failed at the end",		{ ENOMEM, 0, 40 },		-EIO },
	{ "failed at all ones",		{ ENOMEM, 0, ~0ULL, 0, ~0ULL },	-EIO },
	{ "failed at half a page",	{ ENOMEM, 0, 4, 0, PAGE / 2 },	-EIO },
};

KUNIT_ARRAY_PARAM_DESC(table_lie, table_lies, desc);

static void liar_is_found_out_by_a_table(struct kunit *test)
{
	const struct shape *lie = test->param_value;
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int done;

	fake->ret = lie->ret;
	fake->ret_mask = BIT_ULL(MEMCTL_VECTOR);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_ZERO, ranges, 40, &done), lie->err);
	KUNIT_EXPECT_EQ(test, done, 0);
	KUNIT_EXPECT_LE(test, fake->rung, STALLS + 1);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

static void table_of_nonsense_does_not_reach_the_host(struct kunit *test)
{
	static const u64 refused[] = {
		MEMCTL_INFO, MEMCTL_QUERY, MEMCTL_VECTOR, MEMCTL_SET_VMA_ANON_NAME,
		15, 31, 40, BIT_ULL(32) | MEMCTL_FREE, ~0ULL,
	};
	static const struct memctl_vmm_range bad[] = {
		{ ADDR, 0 }, { ADDR + 1, PAGE }, { ADDR, PAGE + 1 }, { -PAGE, 2 * PAGE },
		{ ADDR, ~0ULL }, { 0, 0 },
	};
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	struct memctl_buf buf;
	unsigned int i, done;

	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		done = 7;
		KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(refused[i], ranges, 40, &done), -EINVAL);
		KUNIT_EXPECT_EQ(test, done, 0);
	}
	for (i = 0; i < 2 * ARRAY_SIZE(bad); i++) {
		struct memctl_vmm_range *range = &ranges[i % 2 ? 39 : 17];
		const struct memctl_vmm_range good = *range;

		*range = bad[i / 2];
		done = 7;
		KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), -EINVAL);
		KUNIT_EXPECT_EQ(test, done, 0);
		*range = good;
	}
	/* A kernel caller has no table of its own */
	KUNIT_EXPECT_EQ(test, memctl_vmm_call(MEMCTL_VECTOR, ADDR, 1, MEMCTL_FREE, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);
}

static void without_device_no_range_is_done(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 2);
	unsigned int done = 7;

	need_provider_slot(test);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 2, &done), -ENODEV);
	KUNIT_EXPECT_EQ(test, done, 0);
}

static void atomic_ranges_are_limited(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 3);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int done[4] = { 7, 7, 7, 7 };
	long ret[4];

	ranges[0].length = STEP - PAGE;
	ranges[1] = (struct memctl_vmm_range) { 8ULL * STEP, PAGE };
	ranges[2] = (struct memctl_vmm_range) { 9ULL * STEP, PAGE };
	scoped_guard(irqsave) {
		ret[0] = memctl_vmm_call_vec(MEMCTL_FREE, ranges, 3, &done[0]);
		ret[1] = memctl_vmm_call_vec(MEMCTL_FREE, ranges, 2, &done[1]);
		ranges[1].length = -16ULL * STEP;
		ret[2] = memctl_vmm_call_vec(MEMCTL_FREE, ranges, 2, &done[2]);
		ranges[0] = ranges[1];
		ret[3] = memctl_vmm_call_vec(MEMCTL_FREE, ranges, 2, &done[3]);
	}
	KUNIT_EXPECT_EQ(test, ret[0], -E2BIG);
	KUNIT_EXPECT_EQ(test, done[0], 0);
	KUNIT_EXPECT_EQ(test, ret[1], 0);
	KUNIT_EXPECT_EQ(test, done[1], 2);
	KUNIT_EXPECT_EQ(test, ret[2], -E2BIG);
	KUNIT_EXPECT_EQ(test, done[2], 0);
	KUNIT_EXPECT_EQ(test, ret[3], -E2BIG);
	KUNIT_EXPECT_EQ(test, done[3], 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
}

static void table_survives_a_lost_connection(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	struct watcher *w = watch(test);
	unsigned int done;
	long ret;

	fake_forget(fake);
	ret = memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done);
	if (IS_ENABLED(CONFIG_PREEMPT_COUNT)) {
		KUNIT_EXPECT_EQ(test, ret, 0);
		KUNIT_EXPECT_EQ(test, done, 40);
	} else {
		KUNIT_EXPECT_EQ(test, ret, -EIO);
		KUNIT_EXPECT_EQ(test, done, 0);
	}
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESET));

	/* Without one half way it is known what was done */
	fake->stop_after = 10 * PAGE;
	scoped_guard(irqsave) {
		fake_clear_log(fake);
		fake->most = 0;
		ret = memctl_vmm_call_vec(MEMCTL_FREE, ranges, 3, &done);
		fake_forget(fake);
		ret = ret ?: memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done);
	}
	KUNIT_EXPECT_EQ(test, ret, -EIO);
	KUNIT_EXPECT_EQ(test, done, 0);
	expect_ranges(test, fake, MEMCTL_FREE, ranges, 3, 0);
}

/* After a migration or a restored snapshot */
static void other_host_may_speak_another_minor(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider(test);
	unsigned int done;

	fake->info.arg1 = 1;
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_ZERO), 0);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);

	fake->info.arg1 = 0;
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_ZERO), -EOPNOTSUPP);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 40);
	expect_ranges(test, fake, MEMCTL_FREE, ranges, 40, 0);

	/* With a table on its way */
	if (!IS_ENABLED(CONFIG_PREEMPT_COUNT))
		return;
	fake->info.arg1 = 1;
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_ZERO), 0);
	fake->info.arg1 = 0;
	fake_forget(fake);
	fake_clear_log(fake);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_FREE, ranges, 40, &done), 0);
	KUNIT_EXPECT_EQ(test, done, 40);
	expect_ranges(test, fake, MEMCTL_FREE, ranges, 40, 0);
}

static void every_cpu_asks_for_ranges(void *data)
{
	const u64 addr = ADDR + smp_processor_id() * SZ_1M;
	const struct memctl_vmm_range ranges[] = {
		{ addr, PAGE }, { addr + 2 * PAGE, 3 * PAGE }, { addr + 8 * PAGE, PAGE },
	};
	struct every_cpu *e = data;
	unsigned int done;

	if (memctl_vmm_call_vec(MEMCTL_ZERO, ranges, ARRAY_SIZE(ranges), &done) ||
	    done != ARRAY_SIZE(ranges))
		atomic_inc(&e->failed);
	atomic_inc(&e->calls);
}

static void every_cpu_has_its_own_table(struct kunit *test)
{
	struct fake *fake = fake_provider_1_1(test);
	struct every_cpu e = { };
	unsigned int i, j;

	on_each_cpu(every_cpu_asks_for_ranges, &e, true);
	KUNIT_EXPECT_EQ(test, atomic_read(&e.failed), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, atomic_read(&e.calls));
	KUNIT_EXPECT_EQ(test, fake_did(fake, MEMCTL_ZERO), 3 * atomic_read(&e.calls));
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
	for_each_online_cpu(i) {
		KUNIT_EXPECT_NE(test, fake->tables[i], 0);
		for (j = 0; j < i; j++)
			KUNIT_EXPECT_GE(test, abs_diff(fake->tables[i], fake->tables[j]),
					ENTRIES * ENTRY_SIZE);
	}
}

/* The character device passes a table on, and the answer to it */
static void device_call_passes_a_table_on(struct kunit *test)
{
	static const struct memctl_vmm_ret answers[] = {
		{ 0, 0, 3 },
		{ EAGAIN, 0, 1, 0, PAGE },
		{ ENOMEM, 0, 2 },
		{ EINVAL, MEMCTL_VECTOR },
		{ E2BIG, MEMCTL_VECTOR, PAGE },
		{ ~0U, ~0U, ~0ULL, 0, ~0ULL },
	};
	u64 ram = need_ram(test, SZ_4K);
	struct fake *fake = fake_device_1_1(test);
	struct memctl_buf buf;
	unsigned int i;

	fake->ret_mask = BIT_ULL(MEMCTL_VECTOR);
	for (i = 0; i < ARRAY_SIZE(answers); i++) {
		fake->ret = answers[i];
		fake_clear_log(fake);
		buf.call = (struct memctl_vmm_call) { MEMCTL_VECTOR, ram + 16, 3, MEMCTL_FREE };
		KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), 0);
		expect_request(test, fake, 39, ram + 16, 3, MEMCTL_FREE);
		KUNIT_EXPECT_MEMEQ(test, &buf.ret, &answers[i], sizeof(buf.ret));
	}
	KUNIT_EXPECT_EQ(test, fake->resets, 1);

	/* A whole one, and an old host */
	buf.call = (struct memctl_vmm_call) { MEMCTL_VECTOR, ram, ENTRIES, MEMCTL_MUNLOCK };
	KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), 0);
	fake->info.arg1 = 0;
	buf.call = (struct memctl_vmm_call) { MEMCTL_VECTOR, ram, 1, MEMCTL_FREE };
	KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), 0);
	KUNIT_EXPECT_EQ(test, memctl_ret_errno(&buf), -EOPNOTSUPP);
}

static const struct bad_table {
	const char *desc;
	u64 offset;			/* from RAM */
	u64 entries;
	u64 func;
} bad_tables[] = {
	{ "no entries",			0,	0,		MEMCTL_FREE },
	{ "too many entries",		0,	257,		MEMCTL_FREE },
	{ "2^32 + 1 entries",		0,	BIT_ULL(32) | 1, MEMCTL_FREE },
	{ "2^60 entries",		0,	BIT_ULL(60),	MEMCTL_FREE },
	{ "entries all ones",		0,	~0ULL,		MEMCTL_FREE },
	{ "misaligned",			8,	1,		MEMCTL_FREE },
	{ "no RAM",			BIT_ULL(46),	1,		MEMCTL_FREE },
	{ "INFO",			0,	1,		MEMCTL_INFO },
	{ "QUERY",			0,	1,		MEMCTL_QUERY },
	{ "VECTOR",			0,	1,		MEMCTL_VECTOR },
	{ "SET_VMA_ANON_NAME",		0,	1,		MEMCTL_SET_VMA_ANON_NAME },
	{ "MLOCK",			0,	1,		MEMCTL_MLOCK },
	{ "MPROTECT_NONE",		0,	1,		MEMCTL_MPROTECT_NONE },
	{ "MPROTECT_R",			0,	1,		MEMCTL_MPROTECT_R },
	{ "MPROTECT_W",			0,	1,		MEMCTL_MPROTECT_W },
	{ "code 15",			0,	1,		15 },
	{ "code 40",			0,	1,		40 },
	{ "high half of a code",	0,	1,		BIT_ULL(32) | 1 },
};

KUNIT_ARRAY_PARAM_DESC(bad_table, bad_tables, desc);

static void bad_table_does_not_reach_the_host(struct kunit *test)
{
	const struct bad_table *bad = test->param_value;
	u64 ram = need_ram(test, SZ_8K);
	struct fake *fake = fake_device_1_1(test);
	struct memctl_buf buf = {
		.call = { MEMCTL_VECTOR, ram + bad->offset, bad->entries, bad->func },
	};

	/* Should it, then the table is not looked at */
	fake->ret_mask = BIT_ULL(MEMCTL_VECTOR);
	KUNIT_EXPECT_EQ(test, pvmemctl_call(fake->pm, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);
}

/*
 * What is left behind in a host of 1.1: nothing, it undoes everything
 */

static void new_host_undoes_it_itself(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake = fake_provider_1_1(test);
	unsigned int done;

	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_NONE), 0);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_MLOCK, ranges, 40, &done), 0);
	fake_leave(test, fake);
	KUNIT_EXPECT_EQ(test, fake->disconnects, 1);
	KUNIT_EXPECT_EQ(test, fake->rung, fake_did(fake, MEMCTL_INFO));

	/* Once is enough */
	fake_clear_log(fake);
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

/* It goes by who is there when the driver leaves */
static void undoing_follows_the_host(struct kunit *test)
{
	struct fake *fake;

	need_ram(test, PAGE);
	fake = fake_device_1_1(test);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	fake->info.arg1 = 0;
	fake_forget(fake);
	fake_leave(test, fake);
	expect_undone(test, fake, MEMCTL_MUNLOCK);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
}

static void ranges_of_a_table_are_undone(struct kunit *test)
{
	struct memctl_vmm_range *ranges = new_ranges(test, 40);
	struct fake *fake;
	unsigned int done;

	need_ram(test, PAGE);
	fake = fake_provider_1_1(test);
	KUNIT_EXPECT_EQ(test, memctl_vmm_call_vec(MEMCTL_MPROTECT_NONE, ranges, 40, &done), 0);
	KUNIT_EXPECT_EQ(test, fake->rung, 1);
	fake->info.arg1 = 0;
	fake_forget(fake);
	fake_leave(test, fake);
	expect_undone(test, fake, MEMCTL_MPROTECT_RW);
}

/* The hook may ring devices of this machine too, when there are any */
static void fake_panic(struct kunit *test, struct fake *fake)
{
	need_provider_slot(test);
	KUNIT_ASSERT_EQ(test, 0, fake_register(fake));
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MPROTECT_NONE), 0);
	fake_clear_log(fake);
	scoped_guard(irqsave)
		pvmemctl_panic(NULL, 0, NULL);
}

static void panic_undoes(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");

	need_ram(test, PAGE);
	fake_panic(test, fake);
	expect_undone(test, fake, MEMCTL_MPROTECT_RW);
	KUNIT_EXPECT_EQ(test, fake->disconnects, 0);
	KUNIT_EXPECT_EQ(test, fake->errors, 0);
}

static void panic_disconnects_from_a_new_host(struct kunit *test)
{
	struct fake *fake = fake_new(test, "pvmemctl-fake");

	fake->info.arg1 = 1;
	fake_panic(test, fake);
	KUNIT_EXPECT_EQ(test, fake->rung, 0);
	KUNIT_EXPECT_EQ(test, fake->disconnects, 1);
	KUNIT_EXPECT_EQ(test, fake->state, FAKE_BROKEN);
}

/* Nor does it show in a dump of the VMM what the guest has kept out of that */
static void panic_leaves_alone_what_stops_no_crash_kernel(struct kunit *test)
{
	static const u64 functions[] = {
		MEMCTL_ZERO, MEMCTL_DONTDUMP, MEMCTL_SET_VMA_ANON_NAME, MEMCTL_MERGEABLE,
		MEMCTL_UNMERGEABLE, MEMCTL_HUGEPAGE, MEMCTL_NOHUGEPAGE,
	};
	struct fake *fake = fake_provider_1_1(test);
	unsigned int before, i;

	for (i = 0; i < ARRAY_SIZE(functions); i++)
		KUNIT_EXPECT_EQ(test, fake_ask(fake, functions[i]), 0);
	before = fake->writes;
	scoped_guard(irqsave)
		pvmemctl_panic(NULL, 0, NULL);
	KUNIT_EXPECT_EQ(test, fake->writes, before);
}

/*
 * Coming and going
 */

static void suspend_holds_calls_off(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	unsigned int before;

	pvmemctl_suspend(fake->pm);
	KUNIT_EXPECT_EQ(test, fake->disconnects, 1);
	KUNIT_EXPECT_EQ(test, fake->state, FAKE_BROKEN);
	before = fake->writes;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_INFO), -EIO);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, 15), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake->writes, before);

	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), 0);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
}

static void consumers_learn_of_a_resume(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct watcher *w = watch(test);

	pvmemctl_suspend(fake->pm);
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, kernel_ask_atomic(MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESUMED), 0);
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), 0);
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESUMED));
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), 0);

	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, fake->resets, 2);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESUMED), 1);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESET), 0);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 1);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_LOST), 1);
}

/* A call that failed before must not wake the device up */
static void suspend_stops_the_work(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	unsigned int before;

	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, kernel_ask_atomic(MEMCTL_FREE), -EIO);
	pvmemctl_suspend(fake->pm);
	before = fake->writes;
	msleep(50);
	KUNIT_EXPECT_EQ(test, fake->writes, before);
	KUNIT_EXPECT_EQ(test, fake->state, FAKE_BROKEN);
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), -EIO);
}

static void resume_may_fail(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	unsigned int before;

	pvmemctl_suspend(fake->pm);
	fake->dead = true;
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), -EIO);
	KUNIT_EXPECT_EQ(test, fake->resets, 1 + ATTEMPTS);
	before = fake->writes;
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);
	KUNIT_EXPECT_EQ(test, fake->writes, before);

	fake->dead = false;
	fake->info.arg0 = 2;
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), -EPROTO);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), -EIO);

	fake->info.arg0 = 1;
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), 0);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
}

static void resume_asks_for_the_page_size(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	struct memctl_buf buf;

	pvmemctl_suspend(fake->pm);
	fake->info.ret_value = SZ_64K;
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(fake->pm), 0);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ADDR, SZ_4K, &buf), -EINVAL);
	KUNIT_EXPECT_EQ(test, fake_call(fake, MEMCTL_FREE, ADDR, SZ_64K, &buf), 0);
}

static void suspended_device_may_leave(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	unsigned int rung;

	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_MLOCK), 0);
	pvmemctl_suspend(fake->pm);
	rung = fake->rung;
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, fake->rung, rung);
	KUNIT_EXPECT_EQ(test, fake->resets, 1);
}

static void reference_outlives_the_device(struct kunit *test)
{
	struct fake *fake = fake_device(test);
	struct pvmemctl *pm = fake->pm;
	struct memctl_buf buf;
	unsigned int before;

	pvmemctl_get(pm);
	fake_unregister(fake);
	before = fake->writes;
	KUNIT_EXPECT_FALSE(test, fake_buffers_freed(fake));

	buf.call = (struct memctl_vmm_call) { MEMCTL_DONTNEED, ADDR, PAGE };
	KUNIT_EXPECT_EQ(test, pvmemctl_call(pm, &buf), -ENODEV);
	buf.call = (struct memctl_vmm_call) { MEMCTL_INFO };
	KUNIT_EXPECT_EQ(test, pvmemctl_call(pm, &buf), -ENODEV);
	KUNIT_EXPECT_EQ(test, fake->writes, before);
	pvmemctl_put(pm);
}

static void consumers_learn_of_the_loss(struct kunit *test)
{
	struct fake *fake = fake_provider(test);
	struct watcher *w = watch(test);

	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 1);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_LOST), 1);
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), -ENODEV);

	/* And may come again */
	KUNIT_ASSERT_EQ(test, 0, fake_register(fake));
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 2);
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_FREE), 0);
}

static void ask_when_told(struct watcher *w, unsigned long event)
{
	w->ret = kernel_ask(MEMCTL_FREE);
}

static void consumers_may_call_when_told(struct kunit *test)
{
	struct fake *fake;
	struct watcher *w;

	need_provider_slot(test);
	w = watcher_new(test);
	w->then = ask_when_told;
	w->ret = -EDOM;
	watcher_start(test, w);
	KUNIT_EXPECT_EQ(test, w->ret, -EDOM);

	fake = fake_device(test);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 1);
	KUNIT_EXPECT_EQ(test, w->ret, 0);

	w->ret = -EDOM;
	fake_forget(fake);
	KUNIT_EXPECT_EQ(test, fake_ask(fake, MEMCTL_FREE), 0);
	KUNIT_EXPECT_TRUE(test, watcher_wait(w, PVMEMCTL_RESET));
	KUNIT_EXPECT_EQ(test, w->ret, 0);

	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, w->ret, -ENODEV);
}

static void late_consumer_is_told_at_once(struct kunit *test)
{
	struct fake *fake;
	struct watcher *w;

	need_provider_slot(test);
	w = watch(test);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 0);
	fake = fake_device(test);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 1);

	w = watch(test);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 1);
	pvmemctl_unregister_notifier(&w->nb);
	fake_unregister(fake);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_LOST), 0);
}

static void second_device_serves_its_own_users(struct kunit *test)
{
	struct fake *first = fake_provider(test);
	struct watcher *w = watch(test);
	struct fake *second = fake_new(test, "pvmemctl-fake2");

	fake_start(test, second);
	fake_clear_log(first);
	fake_clear_log(second);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_ADDED), 1);

	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_DONTNEED), 0);
	KUNIT_EXPECT_EQ(test, fake_did(first, MEMCTL_DONTNEED), 1);
	KUNIT_EXPECT_EQ(test, second->rung, 0);

	KUNIT_EXPECT_EQ(test, fake_ask(second, MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, fake_did(second, MEMCTL_FREE), 1);
	KUNIT_EXPECT_EQ(test, fake_did(first, MEMCTL_FREE), 0);

	/* Its fate is not that of consumers */
	fake_forget(second);
	KUNIT_EXPECT_EQ(test, fake_ask(second, MEMCTL_FREE), 0);
	KUNIT_EXPECT_EQ(test, second->resets, 2);
	pvmemctl_suspend(second->pm);
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_DONTNEED), 0);
	KUNIT_EXPECT_EQ(test, pvmemctl_resume(second->pm), 0);
	fake_unregister(second);
	KUNIT_EXPECT_EQ(test, kernel_ask(MEMCTL_DONTNEED), 0);
	KUNIT_EXPECT_EQ(test, first->resets, 1);

	fake_unregister(first);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESET), 0);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_RESUMED), 0);
	KUNIT_EXPECT_EQ(test, watcher_saw(w, PVMEMCTL_LOST), 1);
}

static void second_device_undoes_its_own(struct kunit *test)
{
	struct fake *first, *second;

	need_ram(test, PAGE);
	first = fake_device(test);
	second = fake_new(test, "pvmemctl-fake2");
	fake_start(test, second);

	KUNIT_EXPECT_EQ(test, fake_ask(second, MEMCTL_MLOCK), 0);
	fake_clear_log(first);
	fake_clear_log(second);
	fake_unregister(first);
	KUNIT_EXPECT_EQ(test, first->rung, 0);
	KUNIT_EXPECT_EQ(test, second->rung, 0);
	fake_unregister(second);
	expect_undone(test, second, MEMCTL_MUNLOCK);
}

static struct kunit_case pvmemctl_cases[] = {
	KUNIT_CASE(handshake_registers_every_cpu),
	KUNIT_CASE(unregister_frees_the_buffers),
	KUNIT_CASE_PARAM(bad_host_is_turned_away, bad_host_gen_params),
	KUNIT_CASE(bad_host_is_no_provider),
	KUNIT_CASE(refusal_touches_nothing),
	KUNIT_CASE(registers_without_system_ram),

	KUNIT_CASE_PARAM(device_call_reaches_the_host, function_gen_params),
	KUNIT_CASE_PARAM(kernel_call_reaches_the_host, function_gen_params),
	KUNIT_CASE(nothing_to_undo_outside_of_ram),
	KUNIT_CASE(info_needs_no_range),
	KUNIT_CASE_PARAM(answers_of_every_shape, shape_gen_params),
	KUNIT_CASE_PARAM(nonsense_does_not_reach_the_host, nonsense_gen_params),
	KUNIT_CASE_PARAM(kernel_nonsense_does_not_reach_the_host, nonsense_gen_params),
	KUNIT_CASE(last_page_reaches_the_host),
	KUNIT_CASE(alignment_follows_the_host),
	KUNIT_CASE(without_device_there_is_none),
	KUNIT_CASE(every_cpu_has_its_own_buffer),

	KUNIT_CASE(device_call_connects_again),
	KUNIT_CASE(consumers_learn_of_a_reconnect),
	KUNIT_CASE(kernel_call_connects_again),
	KUNIT_CASE_PARAM(atomic_call_leaves_it_to_a_work, atomic_context_gen_params),
	KUNIT_CASE(atomic_call_does_not_wait),
	KUNIT_CASE(late_work_does_not_connect_again),
	KUNIT_CASE(atomic_call_while_connecting),
	KUNIT_CASE(dead_device_is_given_up),
	KUNIT_CASE(dead_device_is_given_up_by_the_work),
	KUNIT_CASE(silent_device_is_asked_a_few_times),
	KUNIT_CASE(silent_device_is_given_up),
	KUNIT_CASE(restored_often_is_not_given_up),
	KUNIT_CASE(resume_is_a_new_beginning),
	KUNIT_CASE(reconnect_may_meet_another_host),
	KUNIT_CASE(all_cpus_fail_at_once),

	KUNIT_CASE(nested_call_is_busy),
	KUNIT_CASE(nested_call_is_busy_under_a_device_call),

	KUNIT_CASE(border_is_found),
	KUNIT_CASE(border_at_an_end_costs_nothing),
	KUNIT_CASE(several_borders_are_found),
	KUNIT_CASE(border_is_found_in_a_gigabyte),
	KUNIT_CASE(border_is_found_in_atomic_context),
	KUNIT_CASE(border_is_found_with_large_host_pages),
	KUNIT_CASE(device_call_finds_a_border_in_ram),
	KUNIT_CASE(device_call_does_not_split_what_is_no_ram),
	KUNIT_CASE(device_call_does_not_split_where_ram_ends),
	KUNIT_CASE(small_regions_are_found),
	KUNIT_CASE(search_is_bounded),
	KUNIT_CASE(bad_page_is_final),
	KUNIT_CASE(bad_range_is_final),
	KUNIT_CASE_PARAM(other_errors_are_not_split, not_refused_gen_params),
	KUNIT_CASE(kernel_call_goes_in_steps),
	KUNIT_CASE(device_call_goes_in_steps),
	KUNIT_CASE(step_that_fails_is_the_last),
	KUNIT_CASE(atomic_call_is_limited),
	KUNIT_CASE(connection_is_lost_between_steps),
	KUNIT_CASE(fatal_signal_ends_a_long_call),

	KUNIT_CASE_PARAM(protection_and_locks_are_undone, leave_gen_params),
	KUNIT_CASE(only_what_was_set_is_undone),
	KUNIT_CASE_PARAM(nothing_set_nothing_undone, leave_gen_params),
	KUNIT_CASE_PARAM(kernel_callers_leave_nothing_either, leave_gen_params),
	KUNIT_CASE_PARAM(half_a_failure_is_undone, leave_gen_params),
	KUNIT_CASE_PARAM(large_host_pages_are_undone, leave_gen_params),
	KUNIT_CASE(undoing_follows_the_ram),
	KUNIT_CASE_PARAM(undoing_finds_borders, leave_gen_params),
	KUNIT_CASE_PARAM(undoing_goes_on_after_an_error, leave_gen_params),
	KUNIT_CASE_PARAM(undoing_ends_when_the_host_fails, leave_gen_params),
	KUNIT_CASE_PARAM(undoing_ends_when_the_device_is_dead, leave_gen_params),
	KUNIT_CASE_PARAM(undoing_connects_again, leave_gen_params),
	KUNIT_CASE(undoing_does_not_mind_signals),
	KUNIT_CASE(call_during_unregister_is_undone),
	KUNIT_CASE(protection_puts_panic_notifiers_first),

	KUNIT_CASE(handshake_asks_for_the_table_size),
	KUNIT_CASE(any_minor_will_do),
	KUNIT_CASE(query_may_fail),
	KUNIT_CASE_PARAM(new_function_reaches_the_host, function_1_1_gen_params),
	KUNIT_CASE_PARAM(old_host_does_not_know_it, function_1_1_gen_params),
	KUNIT_CASE(query_needs_no_range),
	KUNIT_CASE(old_host_does_not_know_query),
	KUNIT_CASE(step_is_learned),
	KUNIT_CASE_PARAM(step_makes_sense, claim_gen_params),
	KUNIT_CASE(page_too_big_is_final),
	KUNIT_CASE(what_is_no_ram_is_not_made_smaller),
	KUNIT_CASE(stopped_call_goes_on),
	KUNIT_CASE(host_may_stop_before_it_begins),
	KUNIT_CASE(old_host_does_not_stop),
	KUNIT_CASE(fatal_signal_ends_a_stopped_call),
	KUNIT_CASE(granule_is_passed_on),
	KUNIT_CASE(failure_tells_what_was_done),
	KUNIT_CASE(borders_are_found_between_stops),
	KUNIT_CASE_PARAM(liar_is_found_out, lie_gen_params),
	KUNIT_CASE_PARAM(other_answers_are_final, final_gen_params),

	KUNIT_CASE(one_doorbell_for_many_ranges),
	KUNIT_CASE(one_range_needs_no_table),
	KUNIT_CASE_PARAM(tables_are_as_long_as_the_host_takes, table_size_gen_params),
	KUNIT_CASE(old_host_gets_one_range_at_a_time),
	KUNIT_CASE(host_may_not_know_tables),
	KUNIT_CASE_PARAM(refused_table_is_final, table_refusal_gen_params),
	KUNIT_CASE(failed_range_is_counted),
	KUNIT_CASE(failed_range_is_counted_on_an_old_host),
	KUNIT_CASE(border_in_a_table_is_found),
	KUNIT_CASE(bad_range_in_a_table_is_final),
	KUNIT_CASE(table_may_be_bad),
	KUNIT_CASE(stopped_table_goes_on),
	KUNIT_CASE(tables_are_as_heavy_as_the_host_takes),
	KUNIT_CASE_PARAM(table_may_be_too_big, table_claim_gen_params),
	KUNIT_CASE_PARAM(liar_is_found_out_by_a_table, table_lie_gen_params),
	KUNIT_CASE(table_of_nonsense_does_not_reach_the_host),
	KUNIT_CASE(without_device_no_range_is_done),
	KUNIT_CASE(atomic_ranges_are_limited),
	KUNIT_CASE(table_survives_a_lost_connection),
	KUNIT_CASE(other_host_may_speak_another_minor),
	KUNIT_CASE(every_cpu_has_its_own_table),
	KUNIT_CASE(device_call_passes_a_table_on),
	KUNIT_CASE_PARAM(bad_table_does_not_reach_the_host, bad_table_gen_params),

	KUNIT_CASE_PARAM(new_host_undoes_it_itself, leave_gen_params),
	KUNIT_CASE_PARAM(undoing_follows_the_host, leave_gen_params),
	KUNIT_CASE_PARAM(ranges_of_a_table_are_undone, leave_gen_params),
	KUNIT_CASE(panic_undoes),
	KUNIT_CASE(panic_disconnects_from_a_new_host),
	KUNIT_CASE(panic_leaves_alone_what_stops_no_crash_kernel),

	KUNIT_CASE(suspend_holds_calls_off),
	KUNIT_CASE(consumers_learn_of_a_resume),
	KUNIT_CASE(suspend_stops_the_work),
	KUNIT_CASE(resume_may_fail),
	KUNIT_CASE(resume_asks_for_the_page_size),
	KUNIT_CASE(suspended_device_may_leave),
	KUNIT_CASE(reference_outlives_the_device),
	KUNIT_CASE(consumers_learn_of_the_loss),
	KUNIT_CASE(consumers_may_call_when_told),
	KUNIT_CASE(late_consumer_is_told_at_once),
	KUNIT_CASE(second_device_serves_its_own_users),
	KUNIT_CASE(second_device_undoes_its_own),

	/* Last, because what lockdep finds is the last that it finds */
	KUNIT_CASE(reclaim_may_call),
	{ }
};

/* Protecting memory sets it for good, but the fake protects nothing */
static bool saved_crash_kexec_post_notifiers;

static int pvmemctl_suite_init(struct kunit_suite *suite)
{
	struct ram_range range = { .length = SZ_1M };
	int ret;

	saved_crash_kexec_post_notifiers = crash_kexec_post_notifiers;
	ret = ram_make_up();
	if (!ret && ram_walk(&range, ram_longer) == 1)
		ram_addr = round_up(range.addr, SZ_64K);
	return ret;
}

static void pvmemctl_suite_exit(struct kunit_suite *suite)
{
	ram_unmake(NULL);
	crash_kexec_post_notifiers = saved_crash_kexec_post_notifiers;
}

static struct kunit_suite pvmemctl_suite = {
	.name		= "pvmemctl",
	.suite_init	= pvmemctl_suite_init,
	.suite_exit	= pvmemctl_suite_exit,
	.test_cases	= pvmemctl_cases,
};

kunit_test_suite(pvmemctl_suite);
