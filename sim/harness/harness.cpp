// Accelerator in its system: clock, AXI-Lite master, DDR behind AXI4 ports. C API for accelerator_model.py.
//
// (Verilator calls the port `interrupt` `__SYM__interrupt`: the word is on its list of C++ words.)
//
// -DSPK_PORTS=<1, 2 or 4> and -DSPK_DATA_BYTES=<4, 8 or 16> describe the top module; -DVM_TRACE=1 adds waveforms.

#include <memory>

#include "Vtop.h"
#include "axi_port.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace spikeloom {

// AXI4-Lite master with one transaction at a time. What it once said it keeps saying until heard.
struct Lite {
  bool write = false;
  bool address_due = false, data_due = false, answer_due = false;  // still to be handed over
  bool address_valid = false, data_valid = false, answer_ready = false;
  uint32_t address = 0, data = 0, strobe = 15, response = 0;
  bool held = false;  // the slave's answer waited for us
  uint32_t held_data = 0;
  bool busy() const { return address_due || data_due || answer_due; }
};

class System {
 public:
  System(uint8_t* bytes, uint64_t size, uint32_t* last_write) : memory{bytes, size, last_write}, ports(SPK_PORTS) {
    context.traceEverOn(true);
    top = std::make_unique<Vtop>(&context);
    for (int i = 0; i < SPK_PORTS; ++i) ports[i].set_up(i, &memory, &shared, &violations);
    shared.rate = 1e9;
    seed(1);
    reset(8);
  }
  ~System() {
    wave_stop();
    top->final();
  }

  void seed(uint64_t value) {
    for (AxiPort& port : ports) port.seed(value);
    random.seed(value * 64 + 63);
  }

  void reset(int cycles) {
    lite = Lite();
    for (AxiPort& port : ports) port.reset();
    top->rst = 1;
    for (int i = 0; i < cycles; ++i) {
      clock();
      for (AxiPort& port : ports) {
        if (i > 0) port.check_silent(cycle);
        port.reset();
      }
    }
    top->rst = 0;
  }

  void tick() {
    shared.refill();
    for (int i = 0; i < SPK_PORTS; ++i) ports[(i + cycle) % SPK_PORTS].drive(cycle);
    drive_lite();
    clock();
    for (int i = 0; i < SPK_PORTS; ++i) ports[(i + cycle) % SPK_PORTS].step(cycle, ports);
  }

  int64_t transact(bool write, uint32_t address, uint32_t data, uint32_t strobe, uint64_t max_cycles) {
    const uint64_t end = cycle + max_cycles;
    while (lite.busy() && cycle < end) tick();  // what an earlier call gave up waiting for
    if (lite.busy()) return -1;
    lite.write = write, lite.address = address, lite.data = data, lite.strobe = strobe;
    lite.address_due = lite.answer_due = true, lite.data_due = write;
    while (lite.busy() && cycle < end) tick();
    return lite.busy() ? -1 : lite.response;
  }

  bool wave_start(const char* path) {
#if VM_TRACE
    wave_stop();
    wave = std::make_unique<VerilatedVcdC>();
    top->trace(wave.get(), 99);
    wave->open(path);
    return wave->isOpen();
#else
    return false;
#endif
  }
  void wave_stop() {
#if VM_TRACE
    if (wave) wave->close();
    wave.reset();
#endif
  }

  double* option(int port, const char* key) {
    const std::string name = key;
    if (name == "total_bandwidth") return &shared.rate;
    if (name == "stall_lite") return &stall_lite;
    Options& o = ports[port].options;
    const std::pair<const char*, double*> known[] = {
        {"bandwidth", &o.bandwidth}, {"latency", &o.latency},         {"jitter", &o.jitter},
        {"stall_ar", &o.stall_ar},   {"stall_r", &o.stall_r},         {"stall_aw", &o.stall_aw},
        {"stall_w", &o.stall_w},     {"stall_b", &o.stall_b},         {"outstanding", &o.outstanding},
        {"max_burst", &o.max_burst}, {"out_of_order", &o.out_of_order}, {"check_hazards", &o.check_hazards},
    };
    for (const auto& entry : known) {
      if (name == entry.first) return entry.second;
    }
    return nullptr;
  }

  VerilatedContext context;
  std::unique_ptr<Vtop> top;
  Memory memory;
  Bucket shared;
  Violations violations;
  std::vector<AxiPort> ports;
  Lite lite;
  Random random;
  double stall_lite = 0;
  uint64_t cycle = 0;
#if VM_TRACE
  std::unique_ptr<VerilatedVcdC> wave;
#endif

 private:
  // One clock cycle: inputs settle, the master's signals are sampled, the rising edge, the register port's step.
  void clock() {
    drive_pins();
    top->clk = 0;
    top->eval();
    dump(2 * cycle);
    sample_pins();
    const bool awready = top->s_axi_ctrl_awready, wready = top->s_axi_ctrl_wready, arready = top->s_axi_ctrl_arready;
    const bool answer = lite.write ? top->s_axi_ctrl_bvalid : top->s_axi_ctrl_rvalid;
    const bool stray = lite.write ? top->s_axi_ctrl_rvalid : top->s_axi_ctrl_bvalid;
    const uint32_t data = top->s_axi_ctrl_rdata;
    const uint32_t response = lite.write ? top->s_axi_ctrl_bresp : top->s_axi_ctrl_rresp;
    if (!top->rst) step_lite(lite.write ? awready : arready, wready, answer, stray, data, response);
    ++cycle;
    top->clk = 1;
    top->eval();
    dump(2 * cycle - 1);
  }

  void drive_lite() {
    lite.address_valid = lite.address_due && (lite.address_valid || !random.chance(stall_lite));
    lite.data_valid = lite.data_due && (lite.data_valid || !random.chance(stall_lite));
    lite.answer_ready = lite.answer_due && !lite.address_due && !lite.data_due && !random.chance(stall_lite);
  }

  void step_lite(bool address_ready, bool data_ready, bool answer, bool stray, uint32_t data, uint32_t response) {
    const bool expected = lite.answer_due && !lite.address_due && !lite.data_due;
    if (stray || (answer && !expected)) violations.add(cycle, "s_axi_ctrl", "response without a request");
    if (lite.held && !answer) violations.add(cycle, "s_axi_ctrl", "valid of the response fell before ready");
    if (lite.held && answer && !lite.write && data != lite.held_data) {
      violations.add(cycle, "s_axi_ctrl", "read data changed before ready");
    }
    lite.held = answer && expected && !lite.answer_ready, lite.held_data = data;
    if (answer && lite.answer_ready) lite.answer_due = false, lite.response = response, lite.data = data;
    if (lite.address_valid && address_ready) lite.address_due = lite.address_valid = false;
    if (lite.data_valid && data_ready) lite.data_due = lite.data_valid = false;
  }

  void dump(uint64_t time) {
#if VM_TRACE
    if (wave) wave->dump(time * 5);  // 10 time units per cycle
#else
    (void)time;
#endif
  }

  void drive_pins() {
    Vtop& t = *top;
    t.s_axi_ctrl_awaddr = t.s_axi_ctrl_araddr = lite.address;
    t.s_axi_ctrl_awvalid = lite.write && lite.address_valid, t.s_axi_ctrl_arvalid = !lite.write && lite.address_valid;
    t.s_axi_ctrl_wdata = lite.data, t.s_axi_ctrl_wstrb = lite.strobe, t.s_axi_ctrl_wvalid = lite.data_valid;
    t.s_axi_ctrl_bready = lite.write && lite.answer_ready, t.s_axi_ctrl_rready = !lite.write && lite.answer_ready;
#define SPK_DRIVE(n)                                                                              \
  {                                                                                               \
    AxiPort& p = ports[n];                                                                        \
    t.m_axi_gmem##n##_arready = p.ar.ready, t.m_axi_gmem##n##_awready = p.aw.ready;               \
    t.m_axi_gmem##n##_wready = p.w.ready, t.m_axi_gmem##n##_rvalid = p.r.valid;                   \
    t.m_axi_gmem##n##_rid = p.r.id, t.m_axi_gmem##n##_rresp = p.r.response;                       \
    t.m_axi_gmem##n##_rlast = p.r.last, t.m_axi_gmem##n##_bvalid = p.b.valid;                     \
    t.m_axi_gmem##n##_bid = p.b.id, t.m_axi_gmem##n##_bresp = p.b.response;                       \
    memcpy(&t.m_axi_gmem##n##_rdata, p.r.data, kBytes);                                           \
  }
#define SPK_SAMPLE(n)                                                                             \
  {                                                                                               \
    AxiPort& p = ports[n];                                                                        \
    p.ar.valid = t.m_axi_gmem##n##_arvalid, p.ar.address = t.m_axi_gmem##n##_araddr;              \
    p.ar.id = t.m_axi_gmem##n##_arid, p.ar.length = t.m_axi_gmem##n##_arlen;                      \
    p.ar.size = t.m_axi_gmem##n##_arsize, p.ar.burst = t.m_axi_gmem##n##_arburst;                 \
    p.aw.valid = t.m_axi_gmem##n##_awvalid, p.aw.address = t.m_axi_gmem##n##_awaddr;              \
    p.aw.id = t.m_axi_gmem##n##_awid, p.aw.length = t.m_axi_gmem##n##_awlen;                      \
    p.aw.size = t.m_axi_gmem##n##_awsize, p.aw.burst = t.m_axi_gmem##n##_awburst;                 \
    p.w.valid = t.m_axi_gmem##n##_wvalid, p.w.last = t.m_axi_gmem##n##_wlast;                     \
    p.w.strobe = t.m_axi_gmem##n##_wstrb, p.r.ready = t.m_axi_gmem##n##_rready;                   \
    p.b.ready = t.m_axi_gmem##n##_bready;                                                         \
    memcpy(p.w.data, &t.m_axi_gmem##n##_wdata, kBytes);                                           \
  }
#if SPK_PORTS == 1
#define SPK_EACH(what) what(0)
#elif SPK_PORTS == 2
#define SPK_EACH(what) what(0) what(1)
#elif SPK_PORTS == 4
#define SPK_EACH(what) what(0) what(1) what(2) what(3)
#endif
    SPK_EACH(SPK_DRIVE)
  }

  void sample_pins() {
    Vtop& t = *top;
    SPK_EACH(SPK_SAMPLE)
  }
};

}  // namespace spikeloom

using spikeloom::System;

// Waits return the number of cycles they took, or -1 when max_cycles were over first.
extern "C" {

void* spk_create(uint8_t* bytes, uint64_t size, uint32_t* last_write) { return new System(bytes, size, last_write); }
void spk_destroy(System* s) { delete s; }
void spk_reset(System* s, int cycles) { s->reset(cycles); }
void spk_seed(System* s, uint64_t seed) { s->seed(seed); }

int spk_set(System* s, int port, const char* key, double value) {
  double* option = s->option(port, key);
  if (option) *option = value;
  return option ? 0 : -1;
}

uint64_t spk_cycle(System* s) { return s->cycle; }
int spk_interrupt(System* s) { return s->top->__SYM__interrupt; }

int64_t spk_write(System* s, uint32_t address, uint32_t value, uint32_t strobe, uint64_t max_cycles) {
  return s->transact(true, address, value, strobe, max_cycles);
}
int64_t spk_read(System* s, uint32_t address, uint32_t* value, uint64_t max_cycles) {
  const int64_t response = s->transact(false, address, 0, 0, max_cycles);
  *value = s->lite.data;
  return response;
}

void spk_run(System* s, uint64_t cycles) {
  for (uint64_t i = 0; i < cycles; ++i) s->tick();
}
int64_t spk_run_until_interrupt(System* s, int level, uint64_t max_cycles) {
  const uint64_t start = s->cycle;
  while (s->top->__SYM__interrupt != level) {
    if (s->cycle - start >= max_cycles) return -1;
    s->tick();
  }
  return static_cast<int64_t>(s->cycle - start);
}
int64_t spk_run_until_register(System* s, uint32_t address, uint32_t mask, uint32_t value, uint64_t interval,
                               uint64_t max_cycles) {
  const uint64_t start = s->cycle, end = start + max_cycles;
  while (s->cycle < end) {
    uint32_t now = 0;
    if (spk_read(s, address, &now, end - s->cycle) < 0) return -1;
    if ((now & mask) == value) return static_cast<int64_t>(s->cycle - start);
    for (uint64_t i = 0; i < interval && s->cycle < end; ++i) s->tick();
  }
  return -1;
}

int spk_wave_start(System* s, const char* path) { return s->wave_start(path) ? 0 : -1; }
void spk_wave_stop(System* s) { s->wave_stop(); }

uint64_t spk_violations(System* s) { return s->violations.count; }
const char* spk_violation(System* s, uint64_t index) {
  return index < s->violations.text.size() ? s->violations.text[index].c_str() : nullptr;
}
void spk_counters(System* s, int port, uint64_t* out) {
  const auto& c = s->ports[port].counters;
  out[0] = c.read_beats, out[1] = c.write_beats, out[2] = c.read_bursts, out[3] = c.write_bursts;
}
uint64_t spk_in_flight(System* s) {
  uint64_t sum = 0;
  for (const auto& port : s->ports) sum += port.in_flight();
  return sum;
}

void spk_inject(System* s, int port, int write, uint32_t response, uint64_t beat, uint64_t cycle) {
  s->ports[port].faults.push_back({write != 0, response, beat, cycle});
}
void spk_stall(System* s, int port, uint64_t from_cycle) { s->ports[port].stalled_from = from_cycle; }

}  // extern "C"
