// SPDX-License-Identifier: GPL-2.0-only
/*
 * pvmemctl core: the protocol between guest and host, whatever carries it.
 *
 * A device has a command register and one 32-byte buffer for each possible CPU.
 * To ask the host for something a CPU fills its buffer and writes the number of
 * that buffer's connection to the command register, the doorbell.  The host acts
 * inside that write: when it returns, the answer has replaced the request.  So
 * the fast path is a few stores with interrupts off, and takes no lock.  Many
 * ranges go in one request, by a table that each CPU has for that (protocol 1.1).
 *
 * A device that lost its connections, after the VM was restored from a snapshot
 * for one, does not answer at all.  Then one task connects again while all others
 * wait, and everybody asks once more.
 *
 * Neither side trusts the other.  Whatever the host writes, the core bounds how
 * often it asks, and callers never see a positive error.
 */

#define pr_fmt(fmt) "pvmemctl: " fmt

#include <linux/cc_platform.h>
#include <linux/cleanup.h>
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/hardirq.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/irqflags.h>
#include <linux/kobject.h>
#include <linux/kref.h>
#include <linux/log2.h>
#include <linux/memory.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/panic_notifier.h>
#include <linux/percpu.h>
#include <linux/rculist.h>
#include <linux/sched/clock.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/sysfs.h>
#include <linux/topology.h>
#include <linux/workqueue.h>

#include <kunit/static_stub.h>
#include <kunit/visibility.h>
#include <xen/xen.h>

#ifdef CONFIG_S390
#include <asm/uv.h>
#endif
#ifdef CONFIG_ARM64
#include <linux/arm-smccc.h>
#include <asm/hypervisor.h>
#endif

#include "pvmemctl.h"

#define CREATE_TRACE_POINTS
#include <trace/events/pvmemctl.h>

#define PVMEMCTL_NAME(code, name)	name,

static const char * const pvmemctl_names[] = {
	PVMEMCTL_FUNCTIONS(PVMEMCTL_NAME)
};

/* The codes of 1.0, and behind a gap those of 1.1 */
static_assert(ARRAY_SIZE(pvmemctl_names) ==
	      MEMCTL_UNMERGEABLE + 1 + MEMCTL_VECTOR - MEMCTL_QUERY + 1);

/* What one doorbell carries at most; bounds how long the host keeps a CPU */
#define PVMEMCTL_STEP		SZ_1G

/* The same for undoing: what a hole in memory shares its step with is not undone */
#define PVMEMCTL_UNDO_STEP	SZ_128M

/* How many refused pieces of one range to make smaller */
#define PVMEMCTL_REFUSALS	128

/* How often in a row a host may stop before it has done anything */
#define PVMEMCTL_STALLS		64

/* How often to try before a device counts as broken */
#define PVMEMCTL_ATTEMPTS	3

/* How to ask */
#define PVMEMCTL_MAY_SLEEP	BIT(0)	/* wait for a new connection if need be */
#define PVMEMCTL_KILLABLE	BIT(1)	/* stop at a fatal signal, between steps */
#define PVMEMCTL_SPLIT		BIT(2)	/* all is RAM: halve what the host refuses */
#define PVMEMCTL_UNDO		BIT(3)	/* all others are shut out already */

/* A request as the host sees it, overlaid by its answer */
union pvmemctl_wire {
	struct {
		__le64 func_code;
		__le64 addr;
		__le64 length;
		__le64 arg;
	} call;
	struct {
		__le32 ret_errno;
		__le32 ret_code;
		__le64 ret_value;
		__le64 arg0;
		__le64 arg1;
	} ret;
} __aligned(64);	/* the ABI asks for 32; do not share cache lines */

static_assert(sizeof_field(union pvmemctl_wire, call) == 32);
static_assert(sizeof_field(union pvmemctl_wire, ret) == sizeof(struct memctl_buf));
/* In an answered buffer arg0 has replaced length: that tells an answer */
static_assert(offsetof(union pvmemctl_wire, call.length) ==
	      offsetof(union pvmemctl_wire, ret.arg0));

/* An entry of the table for MEMCTL_VECTOR, as the host sees it */
struct pvmemctl_entry {
	__le64 addr;
	__le64 length;
};

static_assert(sizeof(struct pvmemctl_entry) == sizeof(struct memctl_vmm_range));

/* As a power of two it is aligned to its size, and contiguous for the host too */
#define PVMEMCTL_TABLE_SIZE	(MEMCTL_VECTOR_MAX * sizeof(struct pvmemctl_entry))

static_assert(PVMEMCTL_TABLE_SIZE == SZ_4K);

struct pvmemctl_stats {
	unsigned long calls;		/* doorbells */
	unsigned long failed;		/* the host answered with an error */
	unsigned long unanswered;	/* the host did not answer */
	unsigned long kib;		/* KiB that the host has done */
};

/* Only touched by its own CPU, but for reading; all but kib with interrupts off */
struct pvmemctl_cpu {
	u32 connection;			/* changes only while no CPU is busy */
	bool busy;			/* between a look at the state and the answer */
	struct pvmemctl_entry *table;	/* MEMCTL_VECTOR_MAX of them */
	struct pvmemctl_stats stats[ARRAY_SIZE(pvmemctl_names)];
};

/**
 * enum pvmemctl_state - what a call may expect of the device
 * @PVMEMCTL_CONNECTING: wait, a handshake is under way
 * @PVMEMCTL_READY: ring
 * @PVMEMCTL_OFF: suspended, or the guest is going down
 * @PVMEMCTL_BROKEN: it does not answer, given up until resume or rebind
 * @PVMEMCTL_GONE: it has left
 */
enum pvmemctl_state {
	PVMEMCTL_CONNECTING,
	PVMEMCTL_READY,
	PVMEMCTL_OFF,
	PVMEMCTL_BROKEN,
	PVMEMCTL_GONE,
};

/* What callers left behind in the host, to be undone before the guest leaves */
enum { PVMEMCTL_LEFT_PROTECTED, PVMEMCTL_LEFT_LOCKED };

struct pvmemctl {
	struct device *dev;
	const struct pvmemctl_ops *ops;
	void *transport;
	struct kref kref;		/* open files, kernel calls under way */
	struct list_head list;		/* pvmemctl_devices */
	union pvmemctl_wire *wire;	/* nr_cpu_ids of them, in whole pages */
	struct pvmemctl_cpu __percpu *cpus;

	/*
	 * Serialises handshakes and changes of state.  Calls read the state
	 * without it, see pvmemctl_quiesce(), but may wait for it in reclaim:
	 * nothing is allocated under it, and it is the innermost lock.
	 */
	struct mutex connect_lock;
	enum pvmemctl_state state;
	unsigned int generation;	/* handshakes that succeeded */
	unsigned int failed;		/* generation that no longer answers */
	unsigned int reconnects;	/* since a call was last answered */

	/* What the host said of itself in the last handshake */
	u64 page_size;			/* bytes */
	unsigned int minor;		/* protocol 1.minor */
	unsigned int vector_max;	/* entries of a table; 0: it takes none */
	/* What one doorbell may carry, bytes; less when the host says so later */
	u64 step[ARRAY_SIZE(pvmemctl_names)];

	unsigned long left;		/* PVMEMCTL_LEFT_* */
	unsigned long events;		/* enum pvmemctl_event, not yet delivered */
	struct work_struct work;
	struct dentry *debugfs;
};

/*
 * Protects the list of devices and the provider slot as writer, and orders what
 * consumers are told.  Held while they are, so they may not call back into
 * registration.
 */
static DEFINE_MUTEX(pvmemctl_lock);
static LIST_HEAD(pvmemctl_devices);
static struct pvmemctl __rcu *pvmemctl_provider;
static BLOCKING_NOTIFIER_HEAD(pvmemctl_chain);
static struct dentry *pvmemctl_debugfs;

/* All RAM of the guest, ascending; at hand because panic() may take no lock */
struct pvmemctl_ram {
	struct rcu_head rcu;
	unsigned int nr;
	struct {
		u64 addr;
		u64 end;
	} range[] __counted_by(nr);
};

/* Protects pvmemctl_ram as writer.  Memory hotplug takes it, never pvmemctl_lock */
static DEFINE_MUTEX(pvmemctl_ram_lock);
static struct pvmemctl_ram __rcu *pvmemctl_ram;

/* Where in PVMEMCTL_FUNCTIONS a function is */
static unsigned int pvmemctl_index(u64 func_code)
{
	if (func_code < MEMCTL_QUERY)
		return func_code;
	return func_code - MEMCTL_QUERY + MEMCTL_UNMERGEABLE + 1;
}

/* Ranges to ask for in order, and how far that is */
struct pvmemctl_walk {
	u64 func_code;
	u64 arg;
	const struct memctl_vmm_range *range;	/* the next one */
	unsigned int nr;		/* ranges to do */
	u64 offset;			/* bytes done of the next one */

	/* The next doorbell */
	unsigned int entries;		/* parts of that many ranges */
	u64 bytes;			/* in all of them */

	/* What the host said so far */
	u64 border;			/* lowest end that it refused, or 0 */
	unsigned int alone;		/* ranges not to put in a table */
	unsigned int refusals;		/* of parts of the next range */
	unsigned int stalls;		/* answers without progress */
};

/* What is to do of a range, of those to do */
static u64 pvmemctl_rest(const struct pvmemctl_walk *walk, unsigned int i)
{
	return walk->range[i].length - (i ? 0 : walk->offset);
}

static void pvmemctl_fill_table(struct pvmemctl_entry *table,
				const struct pvmemctl_walk *walk)
{
	u64 length, left = walk->bytes;
	unsigned int i;

	for (i = 0; i < walk->entries; i++) {
		length = min(pvmemctl_rest(walk, i), left);
		left -= length;
		table[i].addr = cpu_to_le64(walk->range[i].addr + (i ? 0 : walk->offset));
		table[i].length = cpu_to_le64(length);
	}
}

/* One question to the host, by this CPU, with interrupts off */
static int pvmemctl_ring(struct pvmemctl *pm, struct memctl_buf *buf)
{
	struct pvmemctl_cpu *cpu = this_cpu_ptr(pm->cpus);
	union pvmemctl_wire *wire = &pm->wire[smp_processor_id()];
	struct memctl_vmm_call call = buf->call;

	WRITE_ONCE(wire->call.func_code, cpu_to_le64(call.func_code));
	WRITE_ONCE(wire->call.addr, cpu_to_le64(call.addr));
	WRITE_ONCE(wire->call.length, cpu_to_le64(call.length));
	WRITE_ONCE(wire->call.arg, cpu_to_le64(call.arg));

	mb(); /* the request is in memory before the host is told */
	pm->ops->write_command(pm->transport, cpu->connection);
	mb(); /* the answer is read after the host has acted */

	if (READ_ONCE(wire->ret.arg0) == cpu_to_le64(call.length))
		return -EAGAIN;

	buf->ret = (struct memctl_vmm_ret) {
		.ret_errno	= le32_to_cpu(READ_ONCE(wire->ret.ret_errno)),
		.ret_code	= le32_to_cpu(READ_ONCE(wire->ret.ret_code)),
		.ret_value	= le64_to_cpu(READ_ONCE(wire->ret.ret_value)),
		.arg0		= le64_to_cpu(READ_ONCE(wire->ret.arg0)),
		.arg1		= le64_to_cpu(READ_ONCE(wire->ret.arg1)),
	};
	return 0;
}

/*
 * Something may stay behind, also of a call that fails half way.  Noted before the
 * host is asked: this CPU may be stopped for a panic before it has the answer.
 */
static void pvmemctl_note_left(struct pvmemctl *pm, const struct memctl_vmm_call *call)
{
	switch (call->func_code == MEMCTL_VECTOR ? call->arg : call->func_code) {
	case MEMCTL_MLOCK:
		set_bit(PVMEMCTL_LEFT_LOCKED, &pm->left);
		break;
	case MEMCTL_MPROTECT_NONE:
	case MEMCTL_MPROTECT_R:
	case MEMCTL_MPROTECT_W:
		set_bit(PVMEMCTL_LEFT_PROTECTED, &pm->left);
		/* A crash kernel could not read this: let pvmemctl_panic() run first */
		WRITE_ONCE(crash_kexec_post_notifiers, true);
		break;
	}
}

static void pvmemctl_account(struct pvmemctl *pm, const struct memctl_vmm_call *call,
			     int err, const struct memctl_buf *buf)
{
	struct pvmemctl_stats *stats =
		&this_cpu_ptr(pm->cpus)->stats[pvmemctl_index(call->func_code)];

	stats->calls++;
	if (err)
		stats->unanswered++;
	else if (memctl_ret_errno(buf))
		stats->failed++;

	if (!err && READ_ONCE(pm->reconnects))
		WRITE_ONCE(pm->reconnects, 0);
}

/*
 * Ask once, on whatever CPU this is, with a table for @walk if there is one.
 * -EAGAIN: connect again, the connection to blame is of generation @gen, or of none
 * that ever was ready when @gen is 0.
 */
static int pvmemctl_exchange(struct pvmemctl *pm, struct memctl_buf *buf,
			     const struct pvmemctl_walk *walk, unsigned int flags,
			     unsigned int *gen)
{
	struct memctl_vmm_call call;
	enum pvmemctl_state state;
	struct pvmemctl_cpu *cpu;
	u64 start = 0;
	int ret;

	/* Interrupts off: nobody else on this CPU may use its buffer */
	guard(irqsave)();
	cpu = this_cpu_ptr(pm->cpus);
	/* In a panic it does not matter whom we interrupted */
	if ((in_nmi() || cpu->busy) && !(flags & PVMEMCTL_UNDO))
		return -EBUSY;

	WRITE_ONCE(cpu->busy, true);
	smp_mb(); /* pairs with pvmemctl_quiesce() */
	/* Ready only with the connections that were made before */
	state = flags & PVMEMCTL_UNDO ? PVMEMCTL_READY : smp_load_acquire(&pm->state);
	switch (state) {
	case PVMEMCTL_READY:
		*gen = READ_ONCE(pm->generation);
		if (walk) {
			pvmemctl_fill_table(cpu->table, walk);
			buf->call.addr = virt_to_phys(cpu->table);
		}
		call = buf->call;
		pvmemctl_note_left(pm, &call);
		if (trace_pvmemctl_call_enabled())
			start = local_clock();
		ret = pvmemctl_ring(pm, buf);
		if (start)
			trace_pvmemctl_call(&call, ret, &buf->ret, local_clock() - start);
		pvmemctl_account(pm, &call, ret, buf);
		break;
	case PVMEMCTL_CONNECTING:
		*gen = 0;
		ret = -EAGAIN;
		break;
	case PVMEMCTL_GONE:
		ret = -ENODEV;
		break;
	default:
		ret = -EIO;
	}
	smp_store_release(&cpu->busy, false); /* pvmemctl_quiesce() goes on */
	return ret;
}

/*
 * Leave the ready state, and wait for the CPUs that saw it last.  They have
 * interrupts off and wait for nothing but the host.
 */
static void pvmemctl_quiesce(struct pvmemctl *pm, enum pvmemctl_state state)
{
	int cpu;

	lockdep_assert_held(&pm->connect_lock);
	WRITE_ONCE(pm->state, state);
	smp_mb(); /* a CPU sees the new state, or we see it busy */
	for_each_possible_cpu(cpu)
		smp_cond_load_acquire(&per_cpu_ptr(pm->cpus, cpu)->busy, !VAL);
}

static int pvmemctl_command(struct pvmemctl *pm, u32 command)
{
	pm->ops->write_command(pm->transport, command);
	if (pm->ops->read_answer(pm->transport) != MEMCTL_ANSWER_ACK)
		return -EIO;
	return 0;
}

/* It answers ERROR when it worked, and nothing can be done when it did not */
static void pvmemctl_disconnect(struct pvmemctl *pm)
{
	pm->ops->write_command(pm->transport, MEMCTL_CMD_DISCONNECT);
}

static int pvmemctl_handshake(struct pvmemctl *pm)
{
	u32 connection;
	int cpu, ret;

	ret = pvmemctl_command(pm, MEMCTL_CMD_RESET);
	if (ret)
		return ret;

	for_each_possible_cpu(cpu) {
		pm->ops->write_payload(pm->transport, virt_to_phys(&pm->wire[cpu]));
		ret = pvmemctl_command(pm, MEMCTL_CMD_REGISTER);
		if (ret)
			return ret;
		connection = pm->ops->read_payload(pm->transport);
		/* To ring it must not be a command */
		if (!(connection & MEMCTL_CONNECTION_BASE))
			return -EIO;
		per_cpu_ptr(pm->cpus, cpu)->connection = connection;
	}

	return pvmemctl_command(pm, MEMCTL_CMD_READY);
}

/* How many entries a table may have; no table where the host does not say */
static int pvmemctl_learn_vector(struct pvmemctl *pm)
{
	struct memctl_buf buf = {
		.call = { .func_code = MEMCTL_QUERY, .length = ~0ULL },
	};
	u64 entries = 0;
	int ret;

	if (pm->minor) {
		scoped_guard(irqsave)
			ret = pvmemctl_ring(pm, &buf);
		if (ret)
			return ret;
		if (!memctl_ret_errno(&buf))
			entries = min(buf.ret.arg0, MEMCTL_VECTOR_MAX);
	}
	WRITE_ONCE(pm->vector_max, entries);
	return 0;
}

/* Learn who is there.  -EPROTO for a host that asking again does not change. */
static int pvmemctl_greet(struct pvmemctl *pm)
{
	struct memctl_buf buf = {
		.call = { .func_code = MEMCTL_INFO, .length = ~0ULL },
	};
	int i, ret;

	scoped_guard(irqsave)
		ret = pvmemctl_ring(pm, &buf);
	if (ret)
		return ret;
	if (memctl_ret_errno(&buf)) {
		dev_err(pm->dev, "host does not say who it is (errno %d); check the VMM's settings\n",
			-memctl_ret_errno(&buf));
		return -EPROTO;
	}
	if (buf.ret.arg0 != MEMCTL_PROTOCOL_MAJOR) {
		dev_err(pm->dev, "host speaks protocol %llu.%llu, this driver %u.x; update the older one\n",
			buf.ret.arg0, buf.ret.arg1, MEMCTL_PROTOCOL_MAJOR);
		return -EPROTO;
	}
	if (!is_power_of_2(buf.ret.ret_value) || buf.ret.ret_value < SZ_4K ||
	    buf.ret.ret_value > PVMEMCTL_STEP) {
		dev_err(pm->dev, "host claims a page size of %llu bytes; the VMM is broken\n",
			buf.ret.ret_value);
		return -EPROTO;
	}
	WRITE_ONCE(pm->page_size, buf.ret.ret_value);
	WRITE_ONCE(pm->minor, min(buf.ret.arg1, UINT_MAX));
	for (i = 0; i < ARRAY_SIZE(pm->step); i++)
		WRITE_ONCE(pm->step[i], PVMEMCTL_STEP);
	return pvmemctl_learn_vector(pm);
}

/* Shake hands, a bounded number of times */
static int pvmemctl_connect(struct pvmemctl *pm)
{
	int attempt, ret;

	pvmemctl_quiesce(pm, PVMEMCTL_CONNECTING);
	for (attempt = 0; attempt < PVMEMCTL_ATTEMPTS; attempt++) {
		ret = pvmemctl_handshake(pm);
		if (!ret)
			ret = pvmemctl_greet(pm);
		if (!ret || ret == -EPROTO)
			break;
	}
	if (ret) {
		/* The host must not write to buffers that nobody waits for */
		pvmemctl_disconnect(pm);
		WRITE_ONCE(pm->state, PVMEMCTL_BROKEN);
		return ret == -EPROTO ? ret : -EIO;
	}

	WRITE_ONCE(pm->generation, pm->generation + 1);
	smp_store_release(&pm->state, PVMEMCTL_READY); /* with new connections */
	dev_dbg(pm->dev, "connected, protocol %u.%u, host pages of %llu bytes\n",
		MEMCTL_PROTOCOL_MAJOR, pm->minor, pm->page_size);
	return 0;
}

static void pvmemctl_queue_event(struct pvmemctl *pm, enum pvmemctl_event event)
{
	set_bit(event, &pm->events);
	schedule_work(&pm->work);
}

/*
 * The connection of generation @gen does not answer.  Whoever comes first makes
 * a new one, the others wait for it.
 */
static int pvmemctl_reconnect(struct pvmemctl *pm, unsigned int gen)
{
	int ret;

	guard(mutex)(&pm->connect_lock);
	if (pm->state != PVMEMCTL_READY || pm->generation != gen)
		return 0;	/* somebody did, or there is no point: ask again */

	/* One that always connects and never answers must not keep us busy */
	if (++pm->reconnects > PVMEMCTL_ATTEMPTS) {
		pvmemctl_quiesce(pm, PVMEMCTL_BROKEN);
		pvmemctl_disconnect(pm);
		ret = -EIO;
	} else {
		ret = pvmemctl_connect(pm);
	}

	/* In either case the host may have dropped what was set before */
	pvmemctl_queue_event(pm, PVMEMCTL_RESET);
	if (ret)
		dev_err(pm->dev, "device stopped answering; unbind and bind this driver to try again\n");
	else
		dev_warn_ratelimited(pm->dev, "device had forgotten its connections; protections, locks and names may be gone\n");
	return ret;
}

static void pvmemctl_notify(struct pvmemctl *pm, enum pvmemctl_event event)
{
	lockdep_assert_held(&pvmemctl_lock);
	if (rcu_access_pointer(pvmemctl_provider) == pm)
		blocking_notifier_call_chain(&pvmemctl_chain, event, NULL);
}

/*
 * For callers that cannot wait, and so that consumers are told from where they
 * can call again, whatever the device does then.
 */
static void pvmemctl_work(struct work_struct *work)
{
	struct pvmemctl *pm = container_of(work, struct pvmemctl, work);
	unsigned int failed = READ_ONCE(pm->failed);

	if (failed)
		pvmemctl_reconnect(pm, failed);

	guard(mutex)(&pvmemctl_lock);
	if (test_and_clear_bit(PVMEMCTL_RESUMED, &pm->events))
		pvmemctl_notify(pm, PVMEMCTL_RESUMED);
	if (test_and_clear_bit(PVMEMCTL_RESET, &pm->events))
		pvmemctl_notify(pm, PVMEMCTL_RESET);
}

/* One doorbell, and what it takes to have it answered */
static int pvmemctl_ask(struct pvmemctl *pm, struct memctl_buf *buf,
			const struct pvmemctl_walk *walk, unsigned int flags)
{
	unsigned int gen;
	int attempt, ret;

	for (attempt = 0; attempt < PVMEMCTL_ATTEMPTS; attempt++) {
		ret = pvmemctl_exchange(pm, buf, walk, flags, &gen);
		if (ret != -EAGAIN)
			return ret;
		if (flags & PVMEMCTL_UNDO)
			return -EIO;
		if (!(flags & PVMEMCTL_MAY_SLEEP)) {
			if (gen) {
				WRITE_ONCE(pm->failed, gen);
				schedule_work(&pm->work);
			}
			return -EIO;
		}
		ret = pvmemctl_reconnect(pm, gen);
		if (ret)
			return -EIO;
	}
	return -EIO;
}

/* Is every byte RAM of this kernel? */
static bool pvmemctl_is_ram(u64 addr, u64 length)
{
	struct pvmemctl_ram *ram;
	unsigned int i;

	guard(rcu)();
	ram = rcu_dereference(pvmemctl_ram);
	for (i = 0; i < ram->nr; i++) {
		if (addr < ram->range[i].addr)
			return false;
		if (addr >= ram->range[i].end)
			continue;
		if (length <= ram->range[i].end - addr)
			return true;
		length -= ram->range[i].end - addr;
		addr = ram->range[i].end;
	}
	return false;
}

static bool pvmemctl_is_table(const struct pvmemctl_walk *walk)
{
	return walk->entries > 1;
}

/* Choose what the next doorbell is for: a table where there is more than one range */
static void pvmemctl_prepare(struct pvmemctl *pm, struct pvmemctl_walk *walk,
			     struct memctl_buf *buf, unsigned int flags)
{
	const u64 page = READ_ONCE(pm->page_size);
	const u64 step = READ_ONCE(pm->step[pvmemctl_index(walk->func_code)]);
	const unsigned int max = walk->alone ? 1 : READ_ONCE(pm->vector_max);
	const u64 addr = walk->range->addr + walk->offset;
	u64 limit = pvmemctl_rest(walk, 0);
	unsigned int i;

	/* A step that another host gave may be no multiple of this one's page */
	if (flags & PVMEMCTL_SPLIT)
		limit = max(page, round_down(step, page));
	if (walk->border)
		limit = min(limit, max(page, round_down((walk->border - addr) / 2, page)));

	walk->bytes = min(pvmemctl_rest(walk, 0), limit);
	for (i = 1; i < min(walk->nr, max) && walk->bytes < limit; i++)
		walk->bytes += min(pvmemctl_rest(walk, i), limit - walk->bytes);
	walk->entries = i;

	if (pvmemctl_is_table(walk))
		buf->call = (struct memctl_vmm_call) {
			.func_code	= MEMCTL_VECTOR,
			.length		= walk->entries,
			.arg		= walk->func_code,
		};
	else
		buf->call = (struct memctl_vmm_call) {
			.func_code	= walk->func_code,
			.addr		= addr,
			.length		= walk->bytes,
			.arg		= walk->arg,
		};
}

/* How many bytes of a doorbell has the host done?  -EIO when that cannot be. */
static int pvmemctl_progress(struct pvmemctl *pm, const struct pvmemctl_walk *walk,
			     const struct memctl_buf *buf, u64 *done)
{
	const bool table = pvmemctl_is_table(walk);
	const u64 entries = table ? buf->ret.ret_value : 0;
	const u64 part = table ? buf->ret.arg1 : buf->ret.ret_value;
	unsigned int i;

	*done = 0;
	if (!memctl_ret_errno(buf)) {
		*done = walk->bytes;
		return table && entries != walk->entries ? -EIO : 0;
	}
	/* A host of 1.0 does not tell, and of EINVAL the value may be a granule */
	if (buf->ret.ret_code || !READ_ONCE(pm->minor) ||
	    (!table && buf->ret.ret_errno == EINVAL))
		return 0;

	if (entries >= walk->entries)
		return -EIO;
	for (i = 0; i < entries; i++)
		*done += pvmemctl_rest(walk, i);
	if (part >= min(pvmemctl_rest(walk, i), walk->bytes - *done) ||
	    !IS_ALIGNED(part, READ_ONCE(pm->page_size)))
		return -EIO;
	*done += part;
	return 0;
}

static void pvmemctl_advance(struct pvmemctl *pm, struct pvmemctl_walk *walk, u64 done)
{
	const unsigned int func =
		pvmemctl_index(pvmemctl_is_table(walk) ? MEMCTL_VECTOR : walk->func_code);

	this_cpu_add(pm->cpus->stats[func].kib, done / SZ_1K);
	if (done)
		walk->stalls = 0;

	walk->offset += done;
	while (walk->nr && walk->offset >= walk->range->length) {
		walk->offset -= walk->range->length;
		walk->range++;
		walk->nr--;
		walk->border = 0;
		walk->refusals = 0;
		if (walk->alone)
			walk->alone--;
	}
	if (walk->border && walk->border - (walk->range->addr + walk->offset) <=
			    READ_ONCE(pm->page_size))
		walk->border = 0;	/* found: it is here */
}

/*
 * Is there a point in going on after this error?  1 if so, 0 if it is final, -EIO
 * if the host gets nowhere.
 *
 * A host may want each request to lie in one of its memory regions, and the guest
 * cannot see where those end.  So when the host refuses a range that is all RAM,
 * look for the border by halving.  Each step makes progress or makes the next one
 * smaller; a page refused alone is final.
 *
 * What a host does not like in a table it explains when asked for that range alone.
 */
static int pvmemctl_go_on(struct pvmemctl *pm, struct pvmemctl_walk *walk,
			  const struct memctl_buf *buf, unsigned int flags)
{
	const bool table = pvmemctl_is_table(walk);
	const bool refused = buf->ret.ret_code == (table ? MEMCTL_VECTOR : walk->func_code);
	const u64 page = READ_ONCE(pm->page_size);
	const bool may_split = flags & PVMEMCTL_SPLIT && refused && walk->bytes > page;
	u64 step = buf->ret.ret_value;

	switch (buf->ret.ret_errno) {
	case EAGAIN:
		/* Stopped in between, because others wait; of 1.0 the system call's */
		if (buf->ret.ret_code || !READ_ONCE(pm->minor))
			return 0;
		return ++walk->stalls > PVMEMCTL_STALLS ? -EIO : 1;

	case EOPNOTSUPP:
		/* Maybe it does not know tables at all */
		if (!table || !refused)
			return 0;
		walk->alone = walk->nr;
		return 1;

	case E2BIG:
		if (table && !refused) {
			walk->alone = 1;
			return 1;
		}
		if (!may_split || ++walk->refusals > PVMEMCTL_REFUSALS)
			return 0;
		if (!step || step >= walk->bytes || !IS_ALIGNED(step, page))
			step = round_down(walk->bytes / 2, page);
		WRITE_ONCE(pm->step[pvmemctl_index(walk->func_code)], step);
		return 1;

	case EINVAL:
		if (table) {
			walk->alone = 1;
			return 1;
		}
		/* A value is the alignment that it needs: smaller pieces are no better */
		if (!may_split || buf->ret.ret_value || ++walk->refusals > PVMEMCTL_REFUSALS)
			return 0;
		walk->border = walk->range->addr + walk->offset + walk->bytes;
		return 1;

	default:
		return 0;
	}
}

/*
 * Ask for ranges, in as many steps as it takes.  0 when the host answered: it did
 * all when walk->nr is 0 then, otherwise why not is in @buf.
 */
static int pvmemctl_call_ranges(struct pvmemctl *pm, struct pvmemctl_walk *walk,
				struct memctl_buf *buf, unsigned int flags)
{
	u64 done;
	int ret;

	while (walk->nr) {
		pvmemctl_prepare(pm, walk, buf, flags);
		ret = pvmemctl_ask(pm, buf, pvmemctl_is_table(walk) ? walk : NULL, flags);
		if (ret)
			return ret;

		ret = pvmemctl_progress(pm, walk, buf, &done);
		if (ret)
			return ret;
		pvmemctl_advance(pm, walk, done);
		if (memctl_ret_errno(buf)) {
			ret = pvmemctl_go_on(pm, walk, buf, flags);
			if (ret <= 0)
				return ret;
		}

		if (flags & PVMEMCTL_MAY_SLEEP)
			cond_resched();
		if (flags & PVMEMCTL_KILLABLE && walk->nr && fatal_signal_pending(current))
			return -EINTR;
	}
	return 0;
}

/* Ask for what @buf says: one range, or something that is none */
static int pvmemctl_call_buf(struct pvmemctl *pm, struct memctl_buf *buf,
			     unsigned int flags)
{
	const struct memctl_vmm_range range = {
		.addr = buf->call.addr, .length = buf->call.length,
	};
	struct pvmemctl_walk walk = {
		.func_code = buf->call.func_code, .arg = buf->call.arg,
		.range = &range, .nr = 1,
	};
	int ret;

	switch (buf->call.func_code) {
	case MEMCTL_INFO:
	case MEMCTL_QUERY:
		/* A length that no answer has in its place */
		buf->call.length = ~0ULL;
		fallthrough;
	case MEMCTL_VECTOR:
		return pvmemctl_ask(pm, buf, NULL, flags);
	}

	ret = pvmemctl_call_ranges(pm, &walk, buf, flags);
	/* Of all of the range, not of the last doorbell */
	if (!ret && walk.nr && !buf->ret.ret_code && buf->ret.ret_errno != EINVAL)
		buf->ret.ret_value = walk.offset;
	return ret;
}

static bool pvmemctl_known(u64 func_code)
{
	return func_code <= MEMCTL_UNMERGEABLE ||
	       (func_code >= MEMCTL_QUERY && func_code <= MEMCTL_VECTOR);
}

/* Can it be applied to the ranges of a table? */
static bool pvmemctl_takes_table(u64 func_code)
{
	switch (func_code) {
	case MEMCTL_INFO:
	case MEMCTL_SET_VMA_ANON_NAME:
	case MEMCTL_QUERY:
	case MEMCTL_VECTOR:
		return false;
	default:
		return pvmemctl_known(func_code);
	}
}

/* Does it leave in the host what has to be undone? */
static bool pvmemctl_leaves(u64 func_code)
{
	switch (func_code) {
	case MEMCTL_MLOCK:
	case MEMCTL_MPROTECT_NONE:
	case MEMCTL_MPROTECT_R:
	case MEMCTL_MPROTECT_W:
		return true;
	default:
		return false;
	}
}

static int pvmemctl_check_range(struct pvmemctl *pm, u64 addr, u64 length)
{
	u64 end;

	if (!length || !IS_ALIGNED(addr | length, READ_ONCE(pm->page_size)) ||
	    check_add_overflow(addr, length, &end))
		return -EINVAL;
	return 0;
}

/*
 * A table of a program's own.  The driver does not know what is in it when the host
 * reads it, so nothing that is to be undone goes by such a table.
 */
static int pvmemctl_check_table(const struct memctl_vmm_call *call)
{
	if (!pvmemctl_takes_table(call->arg) || pvmemctl_leaves(call->arg) ||
	    !call->length || call->length > MEMCTL_VECTOR_MAX ||
	    !IS_ALIGNED(call->addr, sizeof(struct pvmemctl_entry)) ||
	    !pvmemctl_is_ram(call->addr, call->length * sizeof(struct pvmemctl_entry)))
		return -EINVAL;
	return 0;
}

/**
 * pvmemctl_call - ask the host of one device
 * @pm: device
 * @buf: the request, native-endian; the answer when 0 is returned
 *
 * A range of which some is not RAM of this kernel is asked for in one piece or
 * not at all, so that a wrong request has no half effect.  Locks and protections
 * are refused there, and in a table for MEMCTL_VECTOR: the driver could not undo
 * them.
 *
 * Context: Process context, may sleep.
 * Return: 0 when the host answered; -EINVAL for a request that makes no sense,
 *	   -EIO when the device does not answer or answers nonsense, -ENODEV when
 *	   it is gone, -EINTR when a fatal signal came between two steps.
 */
int pvmemctl_call(struct pvmemctl *pm, struct memctl_buf *buf)
{
	unsigned int flags = PVMEMCTL_MAY_SLEEP | PVMEMCTL_KILLABLE;
	const struct memctl_vmm_call *call = &buf->call;
	int ret = 0;

	might_sleep();
	if (!pvmemctl_known(call->func_code))
		return -EINVAL;
	switch (call->func_code) {
	case MEMCTL_INFO:
	case MEMCTL_QUERY:
		break;
	case MEMCTL_VECTOR:
		ret = pvmemctl_check_table(call);
		break;
	default:
		ret = pvmemctl_check_range(pm, call->addr, call->length);
		if (pvmemctl_is_ram(call->addr, call->length))
			flags |= PVMEMCTL_SPLIT;
		else if (pvmemctl_leaves(call->func_code) || call->length > PVMEMCTL_STEP)
			ret = -EINVAL;
	}
	return ret ?: pvmemctl_call_buf(pm, buf, flags);
}
EXPORT_SYMBOL_GPL(pvmemctl_call);

/* The device that serves kernel callers, with a reference, or why there is none */
static struct pvmemctl *pvmemctl_get_provider(void)
{
	struct pvmemctl *pm;

	if (in_nmi())
		return ERR_PTR(-EBUSY);
	guard(rcu)();
	pm = rcu_dereference(pvmemctl_provider);
	return pm && kref_get_unless_zero(&pm->kref) ? pm : ERR_PTR(-ENODEV);
}

static unsigned int pvmemctl_kernel_flags(void)
{
	if (preemptible() && !rcu_preempt_depth())
		return PVMEMCTL_SPLIT | PVMEMCTL_MAY_SLEEP | PVMEMCTL_KILLABLE;
	return PVMEMCTL_SPLIT;
}

/**
 * memctl_vmm_call - ask the host to change how it backs guest memory
 * @func_code: one of the MEMCTL_* function codes, but not MEMCTL_VECTOR
 * @addr: guest-physical address, aligned to the host's page size
 * @length: number of bytes, a multiple of the host's page size
 * @arg: depends on @func_code
 * @buf: receives the answer; need not be initialised
 *
 * The range must be RAM that the caller owns.  A long range takes several steps:
 * after an error, any first part of it may have been changed already.  Where the
 * kernel cannot tell whether a context is atomic (no CONFIG_PREEMPT_COUNT), it
 * counts as atomic.
 *
 * Context: Any but NMI.  In atomic context a range is limited to 1 GiB, and
 *	    a lost connection is restored later rather than waited for.
 * Return: 0 when the host answered, see memctl_ret_errno(); -ENODEV when there
 *	   is no device, -EINVAL for an unknown code or an empty, misaligned or
 *	   wrapping range, -EIO when the device does not answer or answers
 *	   nonsense, -E2BIG for a range that is too long here, -EBUSY in NMI
 *	   context, -EINTR when a fatal signal came between two steps.
 */
long memctl_vmm_call(__u64 func_code, __u64 addr, __u64 length, __u64 arg,
		     struct memctl_buf *buf)
{
	const unsigned int flags = pvmemctl_kernel_flags();
	struct pvmemctl *pm = pvmemctl_get_provider();
	long ret = 0;

	if (IS_ERR(pm))
		return PTR_ERR(pm);

	switch (func_code) {
	case MEMCTL_INFO:
	case MEMCTL_QUERY:
		break;
	case MEMCTL_VECTOR:
		ret = -EINVAL;
		break;
	default:
		ret = pvmemctl_known(func_code) ? pvmemctl_check_range(pm, addr, length) : -EINVAL;
		if (!ret && !(flags & PVMEMCTL_MAY_SLEEP) && length > PVMEMCTL_STEP)
			ret = -E2BIG;
	}
	if (!ret) {
		buf->call = (struct memctl_vmm_call) {
			.func_code = func_code, .addr = addr, .length = length, .arg = arg,
		};
		ret = pvmemctl_call_buf(pm, buf, flags);
	}
	pvmemctl_put(pm);
	return ret;
}

/**
 * memctl_vmm_call_vec - the same for many ranges
 * @func_code: one of the MEMCTL_* function codes, but not INFO, QUERY, VECTOR or
 *	       SET_VMA_ANON_NAME
 * @ranges: RAM that the caller owns, aligned as for memctl_vmm_call()
 * @nr: how many
 * @done: receives how many of @ranges, from the first one, the host has done
 *
 * Takes one doorbell for up to 256 ranges where the host can (protocol 1.1), and
 * one for each elsewhere.  The host does them in order and stops at the first that
 * fails, of which a part may have been changed.
 *
 * Context: Any but NMI.  In atomic context all ranges together are limited to
 *	    1 GiB, and a lost connection is restored later rather than waited for.
 * Return: 0 when the host has done all ranges; what it answered for the one that
 *	   failed as a negative errno; or why it was not asked, as for
 *	   memctl_vmm_call(): with -EINVAL and -E2BIG of those, @done is 0.
 */
long memctl_vmm_call_vec(__u64 func_code, const struct memctl_vmm_range *ranges,
			 unsigned int nr, unsigned int *done)
{
	const unsigned int flags = pvmemctl_kernel_flags();
	struct pvmemctl_walk walk = {
		.func_code = func_code, .range = ranges, .nr = nr,
	};
	struct pvmemctl *pm = pvmemctl_get_provider();
	struct memctl_buf buf;
	unsigned int i;
	u64 total = 0;
	long ret = 0;

	*done = 0;
	if (IS_ERR(pm))
		return PTR_ERR(pm);

	if (!pvmemctl_takes_table(func_code))
		ret = -EINVAL;
	for (i = 0; !ret && i < nr; i++) {
		ret = pvmemctl_check_range(pm, ranges[i].addr, ranges[i].length);
		if (check_add_overflow(total, ranges[i].length, &total))
			total = U64_MAX;
	}
	if (!ret && !(flags & PVMEMCTL_MAY_SLEEP) && total > PVMEMCTL_STEP)
		ret = -E2BIG;
	if (!ret) {
		ret = pvmemctl_call_ranges(pm, &walk, &buf, flags);
		if (!ret && walk.nr)
			ret = memctl_ret_errno(&buf);
		*done = nr - walk.nr;
	}
	pvmemctl_put(pm);
	return ret;
}

static int pvmemctl_add_ram(unsigned long pfn, unsigned long nr_pages, void *data)
{
	struct pvmemctl_ram **ram = data, *bigger;

	bigger = krealloc(*ram, struct_size(bigger, range, (*ram)->nr + 1), GFP_KERNEL);
	if (!bigger)
		return -ENOMEM;
	*ram = bigger;
	bigger->nr++;
	bigger->range[bigger->nr - 1].addr = (u64)pfn << PAGE_SHIFT;
	bigger->range[bigger->nr - 1].end = (u64)(pfn + nr_pages) << PAGE_SHIFT;
	return 0;
}

static int pvmemctl_map_ram(void)
{
	struct pvmemctl_ram *ram, *old;
	int ret;

	lockdep_assert_held(&pvmemctl_ram_lock);
	ram = kzalloc(struct_size(ram, range, 0), GFP_KERNEL);
	if (!ram)
		return -ENOMEM;
	/* It also fails where there is no such range */
	ret = walk_system_ram_range(0, ULONG_MAX, &ram, pvmemctl_add_ram);
	if (ret == -ENOMEM) {
		kfree(ram);
		return ret;
	}
	old = rcu_replace_pointer(pvmemctl_ram, ram, lockdep_is_held(&pvmemctl_ram_lock));
	kfree_rcu(old, rcu);
	return 0;
}

/*
 * What a caller protected or locked must not outlive this kernel: the next one,
 * or its crash kernel, would fault on it.  A host of 1.0 undoes nothing by itself,
 * one of 1.1 everything: then to disconnect is enough.
 */
static int pvmemctl_undo(struct pvmemctl *pm, const struct pvmemctl_ram *ram,
			 unsigned int flags)
{
	static const struct {
		int left;
		u64 func_code;
	} undo[] = {
		{ PVMEMCTL_LEFT_PROTECTED,	MEMCTL_MPROTECT_RW },
		{ PVMEMCTL_LEFT_LOCKED,		MEMCTL_MUNLOCK },
	};
	const u64 page = READ_ONCE(pm->page_size);
	struct memctl_buf buf;
	unsigned int i, r;
	u64 addr, end, length;
	int ret;

	for (i = 0; i < ARRAY_SIZE(undo); i++) {
		const u64 func_code = undo[i].func_code;
		const char *name = pvmemctl_names[pvmemctl_index(func_code)];

		if (!test_bit(undo[i].left, &pm->left))
			continue;
		for (r = 0; r < ram->nr; r++) {
			/* A host page with any RAM in it may have been protected */
			addr = round_down(ram->range[r].addr, page);
			end = round_up(ram->range[r].end, page);
			/* In steps, so that an error does not keep the others */
			for (; addr < end; addr += length) {
				length = min(end - addr, max(page, PVMEMCTL_UNDO_STEP));
				buf.call = (struct memctl_vmm_call) {
					.func_code = func_code,
					.addr = addr,
					.length = length,
				};
				ret = pvmemctl_call_buf(pm, &buf, flags);
				if (ret)
					return ret;
				if (memctl_ret_errno(&buf))
					dev_warn_ratelimited(pm->dev, "host did not undo %s at 0x%llx (errno %d); start the VM anew instead of another kernel in it\n",
							     name, addr, -memctl_ret_errno(&buf));
			}
		}
		clear_bit(undo[i].left, &pm->left);
	}
	return 0;
}

/* Shut everybody out, then leave the host's memory as it was found */
static void pvmemctl_leave(struct pvmemctl *pm, enum pvmemctl_state state)
{
	const unsigned int flags = PVMEMCTL_UNDO | PVMEMCTL_SPLIT | PVMEMCTL_MAY_SLEEP;
	struct memctl_buf buf = { .call = { .func_code = MEMCTL_INFO } };
	const struct pvmemctl_ram *ram;
	bool connected;

	/* Find out now if the device has forgotten us: it is too late afterwards */
	if (READ_ONCE(pm->left))
		pvmemctl_call(pm, &buf);

	guard(mutex)(&pvmemctl_ram_lock);
	/* Memory may have left since; without memory for a new map use the old */
	pvmemctl_map_ram();
	ram = rcu_dereference_protected(pvmemctl_ram, lockdep_is_held(&pvmemctl_ram_lock));

	guard(mutex)(&pm->connect_lock);
	connected = pm->state == PVMEMCTL_READY;
	pvmemctl_quiesce(pm, state);
	if (connected) {
		if (pm->minor)
			WRITE_ONCE(pm->left, 0);	/* undone by what follows */
		else if (pvmemctl_undo(pm, ram, flags))
			dev_err(pm->dev, "device stopped answering, protections and locks stay; start the VM anew instead of another kernel in it\n");
		pvmemctl_disconnect(pm);
	}
}

/*
 * No other CPU runs, whatever it was doing.  If that was a handshake, or the device
 * had forgotten its connections, shake hands once more.
 */
VISIBLE_IF_KUNIT int pvmemctl_panic(struct notifier_block *nb, unsigned long action, void *data)
{
	const unsigned int flags = PVMEMCTL_UNDO | PVMEMCTL_SPLIT;
	struct pvmemctl_ram *ram;
	struct pvmemctl *pm;

	guard(rcu)();
	ram = rcu_dereference(pvmemctl_ram);
	list_for_each_entry_rcu(pm, &pvmemctl_devices, list) {
		if (!READ_ONCE(pm->left))
			continue;
		if (READ_ONCE(pm->minor)) {
			pvmemctl_disconnect(pm);
			continue;
		}
		if (READ_ONCE(pm->state) == PVMEMCTL_READY && !pvmemctl_undo(pm, ram, flags))
			continue;
		if (!pvmemctl_handshake(pm))
			pvmemctl_undo(pm, ram, flags);
	}
	return NOTIFY_DONE;
}

static struct notifier_block pvmemctl_panic_nb = {
	.notifier_call = pvmemctl_panic,
};

static int pvmemctl_memory_changed(struct notifier_block *nb, unsigned long action,
				   void *data)
{
	if (action == MEM_ONLINE || action == MEM_OFFLINE) {
		guard(mutex)(&pvmemctl_ram_lock);
		if (rcu_access_pointer(pvmemctl_ram) && pvmemctl_map_ram())
			pr_warn("no memory to note a change of memory: do not protect or lock what was added\n");
	}
	return NOTIFY_OK;
}

static int pvmemctl_calls_show(struct seq_file *m, void *unused)
{
	struct pvmemctl *pm = m->private;
	unsigned int func;
	int cpu;

	seq_printf(m, "# generation %u, host page size %llu bytes, protocol %u.%u\n",
		   READ_ONCE(pm->generation), READ_ONCE(pm->page_size),
		   MEMCTL_PROTOCOL_MAJOR, READ_ONCE(pm->minor));
	seq_puts(m, "# function           doorbells     failed unanswered        KiB\n");
	for (func = 0; func < ARRAY_SIZE(pvmemctl_names); func++) {
		struct pvmemctl_stats sum = {};

		for_each_possible_cpu(cpu) {
			struct pvmemctl_stats *s = &per_cpu_ptr(pm->cpus, cpu)->stats[func];

			sum.calls += READ_ONCE(s->calls);
			sum.failed += READ_ONCE(s->failed);
			sum.unanswered += READ_ONCE(s->unanswered);
			sum.kib += READ_ONCE(s->kib);
		}
		seq_printf(m, "%-18s %11lu %10lu %10lu %10lu\n", pvmemctl_names[func],
			   sum.calls, sum.failed, sum.unanswered, sum.kib);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(pvmemctl_calls);

/* Why this guest must not use the device at all, or NULL */
VISIBLE_IF_KUNIT const char *pvmemctl_refusal(void)
{
	KUNIT_STATIC_STUB_REDIRECT(pvmemctl_refusal);

	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT) ||
	    cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT))
		return "memory of this guest is encrypted";
#ifdef CONFIG_S390
	if (is_prot_virt_guest())
		return "this is a protected guest";
#endif
#if defined(CONFIG_ARM64) && defined(CONFIG_HAVE_ARM_SMCCC_DISCOVERY)
	if (kvm_arm_hyp_service_available(ARM_SMCCC_KVM_FUNC_HYP_MEMINFO))
		return "this is a protected guest";
#endif
	if (xen_pv_domain())
		return "guest-physical addresses mean nothing to a Xen PV host";
	return NULL;
}

static void pvmemctl_free(struct kref *kref)
{
	struct pvmemctl *pm = container_of(kref, struct pvmemctl, kref);
	int cpu;

	if (pm->cpus)
		for_each_possible_cpu(cpu)
			kfree(per_cpu_ptr(pm->cpus, cpu)->table);
	free_percpu(pm->cpus);
	if (pm->wire)
		free_pages_exact(pm->wire, array_size(nr_cpu_ids, sizeof(*pm->wire)));
	kfree(pm);
}

/**
 * pvmemctl_get - keep a device's memory
 * @pm: device
 *
 * Context: Any; the caller holds a reference or knows the device is registered.
 */
void pvmemctl_get(struct pvmemctl *pm)
{
	kref_get(&pm->kref);
}
EXPORT_SYMBOL_GPL(pvmemctl_get);

/**
 * pvmemctl_put - give back a reference
 * @pm: device, not to be used any more
 *
 * Context: Any but NMI.
 */
void pvmemctl_put(struct pvmemctl *pm)
{
	kref_put(&pm->kref, pvmemctl_free);
}
EXPORT_SYMBOL_GPL(pvmemctl_put);

/**
 * pvmemctl_register - connect to a device and offer it to the kernel
 * @dev: its device, for messages; must live until pvmemctl_unregister()
 * @ops: how to reach its registers
 * @transport: handed to @ops
 *
 * The first device serves kernel callers; others only serve their own users.
 *
 * Context: Process context, may sleep.
 * Return: the device with one reference held, or an ERR_PTR: -ENODEV where the
 *	   guest must not use it, -EIO where it does not answer, -EPROTO where it
 *	   answers nonsense, -ENOMEM.
 */
struct pvmemctl *pvmemctl_register(struct device *dev, const struct pvmemctl_ops *ops,
				   void *transport)
{
	const char *refusal = pvmemctl_refusal();
	struct pvmemctl *pm;
	int cpu, ret;

	if (refusal) {
		dev_info(dev, "not used: %s\n", refusal);
		return ERR_PTR(-ENODEV);
	}

	pm = kzalloc_obj(*pm, GFP_KERNEL);
	if (!pm)
		return ERR_PTR(-ENOMEM);
	pm->dev = dev;
	pm->ops = ops;
	pm->transport = transport;
	kref_init(&pm->kref);
	mutex_init(&pm->connect_lock);
	INIT_WORK(&pm->work, pvmemctl_work);
	pm->cpus = alloc_percpu(struct pvmemctl_cpu);
	pm->wire = alloc_pages_exact(array_size(nr_cpu_ids, sizeof(*pm->wire)),
				     GFP_KERNEL | __GFP_ZERO);
	if (!pm->cpus || !pm->wire) {
		ret = -ENOMEM;
		goto err_put;
	}
	/* Whatever this host speaks: after a migration it may be another */
	for_each_possible_cpu(cpu) {
		struct pvmemctl_entry *table = kmalloc_node(PVMEMCTL_TABLE_SIZE, GFP_KERNEL,
							    cpu_to_node(cpu));

		if (!table) {
			ret = -ENOMEM;
			goto err_put;
		}
		per_cpu_ptr(pm->cpus, cpu)->table = table;
	}

	mutex_lock(&pm->connect_lock);
	ret = pvmemctl_connect(pm);
	mutex_unlock(&pm->connect_lock);
	if (ret) {
		if (ret == -EIO)
			dev_err(dev, "device does not answer; is it the host's pvmemctl?\n");
		goto err_put;
	}

	mutex_lock(&pvmemctl_ram_lock);
	ret = pvmemctl_map_ram();
	mutex_unlock(&pvmemctl_ram_lock);
	if (ret) {
		pvmemctl_disconnect(pm);
		goto err_put;
	}

	mutex_lock(&pvmemctl_lock);
	list_add_tail_rcu(&pm->list, &pvmemctl_devices);
	if (!rcu_access_pointer(pvmemctl_provider)) {
		rcu_assign_pointer(pvmemctl_provider, pm);
		pvmemctl_notify(pm, PVMEMCTL_ADDED);
	}
	mutex_unlock(&pvmemctl_lock);

	pm->debugfs = debugfs_create_dir(dev_name(dev), pvmemctl_debugfs);
	debugfs_create_file("calls", 0400, pm->debugfs, pm, &pvmemctl_calls_fops);
	return pm;

err_put:
	pvmemctl_put(pm);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_GPL(pvmemctl_register);

/**
 * pvmemctl_unregister - the device leaves
 * @pm: device; this drops the reference of pvmemctl_register()
 *
 * Undoes what callers left behind in the host.  Calls fail with -ENODEV from now
 * on, also those of open files, and @ops are not used any more.
 *
 * Context: Process context, may sleep.
 */
void pvmemctl_unregister(struct pvmemctl *pm)
{
	debugfs_remove_recursive(pm->debugfs);

	pvmemctl_leave(pm, PVMEMCTL_GONE);
	scoped_guard(mutex, &pvmemctl_lock) {
		list_del_rcu(&pm->list);
		if (rcu_access_pointer(pvmemctl_provider) == pm) {
			rcu_assign_pointer(pvmemctl_provider, NULL);
			blocking_notifier_call_chain(&pvmemctl_chain, PVMEMCTL_LOST, NULL);
		}
	}
	synchronize_rcu();	/* readers of the list and the provider slot */
	cancel_work_sync(&pm->work);
	pvmemctl_put(pm);
}
EXPORT_SYMBOL_GPL(pvmemctl_unregister);

/**
 * pvmemctl_suspend - leave the host in its default state and hold calls off
 * @pm: device
 *
 * For sleep, hibernation, kexec, reboot and power-off.  Calls fail with -EIO
 * until pvmemctl_resume().
 *
 * Context: Process context, may sleep.
 */
void pvmemctl_suspend(struct pvmemctl *pm)
{
	pvmemctl_leave(pm, PVMEMCTL_OFF);
}
EXPORT_SYMBOL_GPL(pvmemctl_suspend);

/**
 * pvmemctl_resume - connect again after pvmemctl_suspend()
 * @pm: device
 *
 * Context: Process context, may sleep.
 * Return: 0, -EIO when the device does not answer, -EPROTO when it is another.
 */
int pvmemctl_resume(struct pvmemctl *pm)
{
	int ret;

	scoped_guard(mutex, &pm->connect_lock) {
		pm->reconnects = 0;
		ret = pvmemctl_connect(pm);
	}
	if (ret)
		dev_err(pm->dev, "device is not usable after resume (%d); unbind and bind this driver to try again\n",
			ret);
	/* Whatever comes of it: what was set before is gone */
	pvmemctl_queue_event(pm, PVMEMCTL_RESUMED);
	return ret;
}
EXPORT_SYMBOL_GPL(pvmemctl_resume);

/**
 * pvmemctl_register_notifier - be told about the provider
 * @nb: called with an enum pvmemctl_event; at once with PVMEMCTL_ADDED when
 *	there is a provider already
 *
 * @nb runs in process context and may call memctl_vmm_call(), but must not
 * register or unregister notifiers.
 *
 * Context: Process context, may sleep.
 * Return: 0, or -EEXIST when @nb is registered.
 */
int pvmemctl_register_notifier(struct notifier_block *nb)
{
	int ret;

	guard(mutex)(&pvmemctl_lock);
	ret = blocking_notifier_chain_register(&pvmemctl_chain, nb);
	if (!ret && rcu_access_pointer(pvmemctl_provider))
		nb->notifier_call(nb, PVMEMCTL_ADDED, NULL);
	return ret;
}

/**
 * pvmemctl_unregister_notifier - no longer be told
 * @nb: notifier; not running when this returns
 *
 * Context: Process context, may sleep.
 */
void pvmemctl_unregister_notifier(struct notifier_block *nb)
{
	blocking_notifier_chain_unregister(&pvmemctl_chain, nb);
}

/* What kernel callers can ask for now */
static ssize_t protocol_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct pvmemctl *pm;

	guard(rcu)();
	pm = rcu_dereference(pvmemctl_provider);
	if (!pm)
		return sysfs_emit(buf, "none\n");
	return sysfs_emit(buf, "%u.%u\n", MEMCTL_PROTOCOL_MAJOR, READ_ONCE(pm->minor));
}

static struct kobj_attribute pvmemctl_protocol_attr = __ATTR_RO(protocol);

struct kobject *pvmemctl_kobj;

static int __init pvmemctl_init(void)
{
	/* Consumers do without their folders where this fails */
	if (IS_ENABLED(CONFIG_SYSFS) && mm_kobj)
		pvmemctl_kobj = kobject_create_and_add("pvmemctl", mm_kobj);
	if (pvmemctl_kobj &&
	    sysfs_create_file(pvmemctl_kobj, &pvmemctl_protocol_attr.attr))
		pr_warn("no memory for /sys/kernel/mm/pvmemctl/protocol\n");

	pvmemctl_debugfs = debugfs_create_dir("pvmemctl", NULL);
	atomic_notifier_chain_register(&panic_notifier_list, &pvmemctl_panic_nb);
	hotplug_memory_notifier(pvmemctl_memory_changed, DEFAULT_CALLBACK_PRI);
	return 0;
}
subsys_initcall(pvmemctl_init);
