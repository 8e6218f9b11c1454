/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A plugin of QEMU 10 (TCG) that records what a guest does to a range of physical memory: stores with their values, cache lines
 * written back, and fences. replay.py makes of it what a power failure would have left.
 *
 *   gcc -O2 -shared -fPIC -o stores.so stores.c
 *   qemu-system-x86_64 … -plugin stores.so,low=0x100000000,high=0x120000000,out=FILE
 *
 * An instruction that writes a line back or fences has no memory access of its own in QEMU, so it is decoded here when its block is
 * translated. The address of a line is that of a register with or without a displacement, which is what compilers and our own
 * assembly make of it; the page must have been stored to before, which tells where it is in physical memory.
 *
 * Debian has no header for plugins: what is used of the interface is declared here, as its documentation has it. */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
typedef uint32_t access_info;
struct block;
struct instruction;
struct hardware_address;
enum { NO_REGISTERS, READ_REGISTERS };
enum { ON_READ = 1, ON_WRITE = 2 };
struct value {
    int type;
    union {
        uint8_t u8;
        uint16_t u16;
        uint32_t u32;
        uint64_t u64;
        struct {
            uint64_t low, high;
        } u128;
    } data;
};
struct array { /* GArray and GByteArray begin so */
    char *data;
    unsigned len;
};
struct register_name {
    void *handle;
    const char *name, *feature;
};

__attribute__((visibility("default"))) int qemu_plugin_version = 4;
void qemu_plugin_register_vcpu_init_cb(plugin_id, void (*)(plugin_id, unsigned));
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct block *);
struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
size_t qemu_plugin_insn_data(const struct instruction *, void *, size_t);
void qemu_plugin_register_vcpu_mem_cb(struct instruction *, void (*)(unsigned, access_info, uint64_t, void *), int, int, void *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct instruction *, void (*)(unsigned, void *), int, void *);
unsigned qemu_plugin_mem_size_shift(access_info);
struct value qemu_plugin_mem_get_value(access_info);
struct hardware_address *qemu_plugin_get_hwaddr(access_info, uint64_t);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct hardware_address *);
struct array *qemu_plugin_get_registers(void);
int qemu_plugin_read_register(void *, void *);
void *g_byte_array_new(void);
void *g_byte_array_set_size(void *, unsigned);

/* One line of the log. */
struct record {
    uint8_t kind; /* S: store, N: store past the cache, L: line written back, F: fence */
    uint8_t cpu;
    uint16_t size;
    uint32_t unused;
    uint64_t address; /* from `low` on */
    uint64_t value[2];
};

static uint64_t low, high;
static bool one; /* thread for all processors: then QEMU does not say truly which it is, and all count as one */
static FILE *out;
static bool begun;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void put(struct record record)
{
    pthread_mutex_lock(&lock);
    begun = true;
    if (one)
        record.cpu = 0;
    if (fwrite(&record, sizeof(record), 1, out) != 1)
        abort();
    pthread_mutex_unlock(&lock);
}

/* Where pages that were stored to are: by virtual address, forgotten when another takes the place. */
enum { PAGES = 1 << 16 };
static struct {
    uint64_t virtual, physical;
} pages[PAGES];

static void stored(unsigned cpu, access_info access, uint64_t virtual, void *past_the_cache)
{
    const struct hardware_address *where = qemu_plugin_get_hwaddr(access, virtual);
    if (where == NULL)
        return;
    uint64_t physical = qemu_plugin_hwaddr_phys_addr(where);
    if (physical < low || physical >= high)
        return;
    uint64_t page = virtual >> 12;
    pages[page % PAGES].virtual = page;
    pages[page % PAGES].physical = physical >> 12;
    struct value value = qemu_plugin_mem_get_value(access);
    struct record record = {
        .kind = past_the_cache != NULL ? 'N' : 'S',
        .cpu = cpu,
        .size = 1 << qemu_plugin_mem_size_shift(access),
        .address = physical - low,
    };
    switch (record.size) {
    case 1: record.value[0] = value.data.u8; break;
    case 2: record.value[0] = value.data.u16; break;
    case 4: record.value[0] = value.data.u32; break;
    case 8: record.value[0] = value.data.u64; break;
    default:
        record.value[0] = value.data.u128.low;
        record.value[1] = value.data.u128.high;
    }
    put(record);
}

static void fence(unsigned cpu, void *unused)
{
    (void)unused;
    if (begun)
        put((struct record){ .kind = 'F', .cpu = cpu });
}

enum { CPUS = 8, REGISTERS = 16 };
static void *registers[CPUS][REGISTERS];

static void started(plugin_id id, unsigned cpu)
{
    static const char *const names[REGISTERS] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                  "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    (void)id;
    if (cpu >= CPUS)
        abort();
    struct array *all = qemu_plugin_get_registers();
    const struct register_name *known = (const struct register_name *)all->data;
    for (unsigned i = 0; i < all->len; i++)
        for (int n = 0; n < REGISTERS; n++)
            if (strcmp(known[i].name, names[n]) == 0)
                registers[cpu][n] = known[i].handle;
}

/* What a line's address is made of, in one pointer. */
union operand {
    struct {
        int32_t displacement;
        uint32_t base;
    };
    void *pointer;
};

static void line(unsigned cpu, void *argument)
{
    union operand operand = { .pointer = argument };
    static __thread void *bytes;
    if (bytes == NULL)
        bytes = g_byte_array_new();
    g_byte_array_set_size(bytes, 0);
    uint64_t virtual;
    if (qemu_plugin_read_register(registers[cpu][operand.base], bytes) < 8)
        return;
    memcpy(&virtual, ((struct array *)bytes)->data, 8);
    virtual += (int64_t)operand.displacement;
    uint64_t page = virtual >> 12;
    if (pages[page % PAGES].virtual != page || page == 0)
        return;
    uint64_t physical = pages[page % PAGES].physical << 12 | (virtual & 0xfc0);
    if (physical >= low && physical < high)
        put((struct record){ .kind = 'L', .cpu = cpu, .size = 64, .address = physical - low });
}

/* Looks for sfence, mfence, clwb, clflushopt and clflush, which are all 0f ae, and for stores past the cache. */
static void translated_one(struct instruction *instruction)
{
    uint8_t code[16] = { 0 };
    qemu_plugin_insn_data(instruction, code, 15);
    int at = 0, rex = 0;
    bool narrow = false, past_the_cache = false;
    for (; code[at] == 0x66 || code[at] == 0x2e || code[at] == 0x3e; at++)
        narrow |= code[at] == 0x66;
    if ((code[at] & 0xf0) == 0x40)
        rex = code[at++];
    if (code[at] == 0x0f) {
        uint8_t operation = code[at + 1], form = code[at + 2];
        int mode = form >> 6, which = form >> 3 & 7, base = form & 7;
        past_the_cache = operation == 0xc3 || operation == 0xe7 || operation == 0x2b; /* movnti, movntdq, movntps */
        if (operation == 0xae && mode == 3 && (which == 6 || which == 7)) {
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, fence, NO_REGISTERS, NULL);
        } else if (operation == 0xae && mode != 3 && (which == 7 || (narrow && which == 6))) {
            union operand operand = { .base = base | (rex & 1) << 3 };
            int displacement = at + 3;
            if (base == 4) { /* a byte more; ours has no index there */
                if ((code[at + 3] & 0x38) != 0x20)
                    return;
                operand.base = (code[at + 3] & 7) | (rex & 1) << 3;
                displacement++;
            }
            if (mode == 1)
                operand.displacement = (int8_t)code[displacement];
            else if (mode == 2)
                memcpy(&operand.displacement, code + displacement, 4);
            else if (base == 5)
                return; /* relative to the instruction */
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, line, READ_REGISTERS, operand.pointer);
        }
    } else if (code[0] == 0xc5 || code[0] == 0xc4) { /* vmovntdq, vmovntps */
        uint8_t operation = code[code[0] == 0xc5 ? 2 : 3];
        past_the_cache = operation == 0xe7 || operation == 0x2b;
    }
    qemu_plugin_register_vcpu_mem_cb(instruction, stored, NO_REGISTERS, ON_WRITE, past_the_cache ? &begun : NULL);
}

static void translated(plugin_id id, struct block *block)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++)
        translated_one(qemu_plugin_tb_get_insn(block, i));
}

static void ended(plugin_id id, void *unused)
{
    (void)id;
    (void)unused;
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    const char *path = "stores.log";
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "low=", 4) == 0)
            low = strtoull(argv[i] + 4, NULL, 0);
        else if (strncmp(argv[i], "high=", 5) == 0)
            high = strtoull(argv[i] + 5, NULL, 0);
        else if (strcmp(argv[i], "one=on") == 0)
            one = true;
        else if (strncmp(argv[i], "out=", 4) == 0)
            path = argv[i] + 4;
    }
    out = fopen(path, "w");
    if (out == NULL || low >= high)
        return 1;
    setvbuf(out, NULL, _IOFBF, 1 << 20);
    qemu_plugin_register_vcpu_init_cb(id, started);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
