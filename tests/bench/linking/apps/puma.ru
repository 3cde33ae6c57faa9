# frozen_string_literal: true

# Puma: a thread for each request, calls through Net::HTTP, a connection kept by each thread.

# Not 'digest' alone, which loads this when two threads may ask for it.
require 'digest/sha2'
require 'net/http'

BACKEND = URI(ENV.fetch('BACKEND'))
POOLED = ENV['OUT'] != 'fresh'
CALLS = { 'one' => 1, 'seq2' => 2, 'par2' => 2, 'fan8' => 8, 'sleep' => 2, 'executor' => 1, 'saturated' => 2, 'retry' => 1,
          'late' => 1 }.freeze
FEW = Thread::SizedQueue.new(4)
JOBS = Thread::Queue.new
$jobs = false

def call(path)
  return Net::HTTP.get_response(BACKEND.host, path, BACKEND.port).code.to_i unless POOLED

  http = Thread.current.thread_variable_get(:http)
  unless http
    http = Net::HTTP.start(BACKEND.host, BACKEND.port)
    Thread.current.thread_variable_set(:http, http)
  end
  http.request(Net::HTTP::Get.new(path)).code.to_i
end

def paths(pattern, id, kept)
  Array.new(CALLS.fetch(pattern)) do |index|
    next "/call/#{id}/#{index}" if kept

    "/#{pattern == 'retry' ? 'flaky' : 'call'}/#{Digest::SHA256.hexdigest("#{id}:#{index}")[0, 32]}"
  end
end

def serve(pattern, urls)
  case pattern
  when 'retry'
    nil while call(urls[0]) == 503
  when 'par2', 'fan8'
    urls.map { |url| Thread.new { call(url) } }.each(&:join)
  when 'executor'
    done = Thread::Queue.new
    JOBS << [urls[0], done]
    done.pop
  else
    urls.each do |url|
      sleep 0.01 if pattern == 'sleep'
      FEW << nil if pattern == 'saturated'
      call(url)
      FEW.pop if pattern == 'saturated'
    end
  end
end

16.times do
  Thread.new do
    loop do
      url, done = JOBS.pop
      call(url)
      done << nil
    end
  end
end

Thread.new do
  (0..).each do |number|
    sleep 0.005
    call("/background/#{number}") if $jobs
  end
end

run(lambda do |env|
  _, pattern, id = env['PATH_INFO'].split('/')
  if pattern == 'jobs'
    $jobs = id == 'on'
  else
    urls = paths(pattern, id, env['QUERY_STRING'] == 'ids=kept')
    if pattern == 'late'
      env['rack.after_reply'] << lambda do
        sleep 0.002
        call(urls[0])
      end
    else
      serve(pattern, urls)
    end
  end
  [200, { 'content-type' => 'text/plain' }, ['ok']]
end)
