# Stands in for Vivado: runs a script under tclsh, writes every Vivado command that it calls, with its arguments after
# substitution, to a file.
#
#     tclsh mock_vivado.tcl SCRIPT RECORD ?KEY=VALUE ...?
#
# RECORD: each command ended by the character 0x1e, its words separated by 0x1f. Keys:
#     missing=PATTERN    IPs and boards that match are not there
#     progress=TEXT      PROGRESS of the runs
#     setup=NS hold=NS   slacks
#     inferred=0         package_project infers no interfaces; infer_bus_interface does
#     uninferable=NAME   an interface that nothing infers
#     hwh=FILE timing=FILE utilization=FILE    what Vivado "writes"

lassign $argv script record
array set option {missing {} progress 100% setup 0.012 hold 0.010 inferred 1 uninferable {} hwh {} timing {} utilization {}}
foreach argument [lrange $argv 2 end] {
  set at [string first = $argument]
  set option([string range $argument 0 $at-1]) [string range $argument $at+1 end]
}
set channel [open $record w]
fconfigure $channel -buffering none -encoding utf-8
set inferred {}

proc last {words} {
  return [lindex $words end]
}

proc answer {command words} {
  global option inferred
  switch -glob -- $command {
    get_ipdefs - get_board_parts {
      set name [string range [last $words] 0 end-2]
      if {$option(missing) ne "" && [string match $option(missing) $name]} {
        return {}
      }
      return [list $name:1.9 $name:1.10]
    }
    get_property {
      switch -- [lindex $words 0] {
        PROGRESS { return $option(progress) }
        STATUS { return "some status" }
        DIRECTORY { return [file join [project_folder] runs] }
        SLACK { return [expr {"-setup" in [last $words] ? $option(setup) : $option(hold)}] }
        NAME { return [last $words] }
      }
      error "the mock knows no property [lindex $words 0]"
    }
    get_timing_paths { return $words }
    get_bd_addr_segs {
      if {"-addressables" in $words} {
        set space [last $words]
        return [list /ps/x/HP0_DDR_LOW /ps/x/HP0_QSPI]
      }
      return [last $words]
    }
    ipx::get_bus_interfaces {
      set name [lindex [lsearch -all -inline -not $words -*] 0]
      if {$name ne $option(uninferable) && ($option(inferred) || $name in $inferred)} {
        return $name
      }
      return {}
    }
    ipx::infer_bus_interface {
      foreach port [lindex $words 0] {
        lappend inferred $port [join [lrange [split $port _] 0 end-1] _]
      }
      return {}
    }
    ipx::get_registers { return old_register }
    ipx::get_address_spaces - ipx::get_memory_maps - ipx::get_address_blocks {
      return [expr {$option(inferred) ? [lindex [lsearch -all -inline -not $words -*] 0] : {}}]
    }
    ipx::current_core { return core }
    ipx::add_* { return [lindex $words 0] }
    make_wrapper { return wrapper.v }
    report_timing_summary { give timing [last $words] }
    report_utilization {
      if {"-hierarchical" ni $words} {
        give utilization [last $words]
      }
    }
    launch_runs {
      if {[lindex $words 0] eq "impl_1"} {
        file mkdir [file join [project_folder] runs]
        close [open [file join [project_folder] runs spikeloom_system_wrapper.bit] w]
        set folder [file join [project_folder] build_project.gen sources_1 bd spikeloom_system hw_handoff]
        file mkdir $folder
        give hwh [file join $folder spikeloom_system.hwh]
      }
    }
    current_* - get_* { return [expr {[llength $words] ? [last $words] : $command}] }
  }
  return {}
}

proc give {key path} {
  global option
  if {$option($key) ne ""} {
    file copy -force $option($key) $path
  } else {
    close [open $path w]
  }
}

proc project_folder {} {
  return [file join [file dirname [file normalize $::script]] build_project]
}

proc unknown {command args} {
  puts -nonewline $::channel [join [list $command {*}$args] \x1f]\x1e
  # Tcl's own commands never come here; a name that is none of Vivado's is a slip.
  if {![regexp {^(ipx::|get_|set_property$|create_|add_files$|update_|connect_bd_|assign_bd_|exclude_bd_|apply_bd_|current_project$|current_fileset$|validate_bd_|save_bd_|regenerate_bd_|generate_target$|make_wrapper$|launch_runs$|wait_on_run$|open_run$|report_|close_project$)} $command]} {
    error "invalid command name \"$command\""
  }
  return [answer $command $args]
}

set argv {}
source $script
