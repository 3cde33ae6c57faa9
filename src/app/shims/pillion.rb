# frozen_string_literal: true

# Start-up shim of Pillion for Ruby 3.0 and later: RUBYOPT=-r/path/to/pillion.rb
#
# Carries the header `pillion-token` from a request that this program serves (Puma, WEBrick) to the plain http:// calls that
# the same thread or fiber makes through Net::HTTP. It reads, keeps and sends nothing else. Whatever fails in here leaves the
# program as it would be without it. A thread that a request starts inherits nothing: it may outlive the request.
module PillionShim
  HEADER = 'pillion-token'

  # The token of the request that this fiber serves.
  def self.serve
    Thread.current[:pillion_token] = yield
  rescue StandardError
    nil
  end

  # A request object may be sent again, by another request or over TLS: what it had before goes.
  def self.stamp(http, request)
    token = http.use_ssl? ? nil : Thread.current[:pillion_token]
    token ? request[HEADER] = token : request.delete(HEADER)
  rescue StandardError
    nil
  end

  module Puma
    def handle_request(client, *)
      PillionShim.serve { client.env['HTTP_PILLION_TOKEN'] }
      super
    end
  end

  module WEBrick
    def service(request, *)
      PillionShim.serve { request[HEADER] }
      super
    end
  end

  module Client
    def request(request, *)
      PillionShim.stamp(self, request)
      super
    end
  end

  # What is waited for, by the constant that holds it.
  @hooks = {
    %i[Puma Server] => Puma,
    %i[WEBrick HTTPServer] => WEBrick,
    %i[Net HTTP] => Client
  }

  # Hooks into what the program has loaded by now; loads nothing by itself.
  def self.attach
    return if @hooks.empty?

    @hooks.delete_if do |(space, name), hook|
      next unless Object.const_defined?(space, false) && !Object.autoload?(space, false)

      space = Object.const_get(space, false)
      next unless space.const_defined?(name, false) && !space.autoload?(name, false)

      space.const_get(name, false).prepend(hook)
      true
    end
  rescue StandardError
    @hooks.clear
  end

  module Require
    private

    def require(*)
      result = super
      PillionShim.attach
      result
    end
  end

  begin
    Kernel.prepend(Require)
    attach
  rescue StandardError
    nil
  end
end
